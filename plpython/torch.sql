-- The functions that run networks once more, with PyTorch: those of schema sql_diffusion_numpy that build.py names. All but
-- the networks' own passes is done by the same code, so schedules, noise, guidance and what is refused are the same.

create schema sql_diffusion_torch;
comment on schema sql_diffusion_torch is 'The functions of schema sql_diffusion that run networks, with PyTorch: on a GPU where there is one.';
grant usage on schema sql_diffusion_torch to public;

-- Every call asks here. Volatile, so that it is not put in place of its call, where nobody would look whether it may be executed.
create function sql_diffusion_torch.settings() returns table (device text, dtype text)
language sql volatile parallel safe rows 1
begin atomic
  select nullif(current_setting('sql_diffusion.device', true), ''), nullif(current_setting('sql_diffusion.dtype', true), '');
end;
comment on function sql_diffusion_torch.settings() is
  'The settings sql_diffusion.device and sql_diffusion.dtype, NULL for what is not set. Whoever may execute this may use backend torch.';

create function sql_diffusion_torch.empty_cache() returns void
language plpython3u volatile parallel unsafe
as $$
if "sql_diffusion_torch" in GD:
    GD["sql_diffusion_torch"].empty_cache(plpy)
$$;
comment on function sql_diffusion_torch.empty_cache() is
  'Lets go of the networks that this session holds for PyTorch, and of the memory of its GPU; the next call reads them again. The end of the session does the same.';

