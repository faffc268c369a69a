create function sql_diffusion.attention_block_of_maps(
  input sql_diffusion.feature_maps, model text, key text, heads int, num_groups int, eps double precision, output_scale_factor double precision, component text
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.attention_of_maps(input, null, model, component, key, heads, 'attention_block', (input).planes, output_scale_factor => output_scale_factor, num_groups => num_groups, eps => eps) maps
  offset 0;
end;
comment on function sql_diffusion.attention_block_of_maps(sql_diffusion.feature_maps, text, text, int, int, double precision, double precision, text) is
  'attention_block of feature maps, without the checks of its settings but for heads. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.attention_block(
  input real[],
  model text,
  key text,
  heads int,
  num_groups int default null,
  eps double precision default 1e-5,
  output_scale_factor double precision default 1,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
set join_collapse_limit = 1
begin atomic
  select sql_diffusion.check_tensor(input, 'attention_block: input', 'channels, height, width'),
         case when output_scale_factor is null or not (abs(output_scale_factor) > 0 and abs(output_scale_factor) < 'infinity') then
           sql_diffusion.fail(format('attention_block: output_scale_factor is %s, expected a finite number other than 0', coalesce(output_scale_factor::text, 'null')))
         end,
         case when eps is null or not (eps >= 0 and eps < 'infinity') then
           sql_diffusion.fail(format('attention_block: eps is %s, expected a finite number of at least 0', coalesce(eps::text, 'null')))
         end;
  select sql_diffusion.from_maps(output)
  from (select sql_diffusion.to_maps(input) as maps offset 0) given,
       sql_diffusion.attention_block_of_maps(given.maps, model, key, heads, num_groups, eps, output_scale_factor, component) output;
end;
comment on function sql_diffusion.attention_block(real[], text, text, int, int, double precision, double precision, text) is
  'Self-attention among the pixels with a residual, diffusers'' Attention: group_norm (none where num_groups is NULL), to_q, to_k and to_v, scaled_dot_product_attention '
  'in so many heads, to_out.0, plus the input, divided by output_scale_factor. input and output (channels, height, width); the parameters are those below the key.';
