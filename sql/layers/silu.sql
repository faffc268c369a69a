create function sql_diffusion.silu(input real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'silu: input'),
         sql_diffusion.check_values(input, 'silu: input');
  -- tanh cannot overflow, as exp would. What is too small for a real goes to 0 in the sum with 1e-29; the cast would raise an underflow.
  select sql_diffusion.with_shape(array_agg((x / 2 * (1 + tanh(x / 2)) + 1e-29 - 1e-29)::real), sql_diffusion.shape(input))
  from (select unnest(input)::float8 as x) elements;
end;
comment on function sql_diffusion.silu(real[]) is
  'x / (1 + exp(-x)), which is x/2 (1 + tanh(x/2)), of every element, torch.nn.functional.silu. A tensor of any shape; the output has the same.';
