create function sql_diffusion.layer_norm_tokens(input real[], weight real[], bias real[], eps double precision) returns real[]
language sql immutable parallel safe
set jit = off
return (
  select array_agg(own.features order by token)
  from generate_series(1, array_length(input, 1)) token,
       lateral (select avg(x) as mean,
                       1 / sqrt(var_pop(x) + eps) as factor
                from (select unnest(input[token:token])::float8 as x) features offset 0) statistics,
       lateral (select array_agg((((x - statistics.mean) * statistics.factor) * coalesce(w, 1) + coalesce(b, 0) + 1e-29 - 1e-29)::real) as features
                from (select unnest(input[token:token]) as x, unnest(weight) as w, unnest(bias) as b offset 0) feature offset 0) own);
comment on function sql_diffusion.layer_norm_tokens(real[], real[], real[], double precision) is
  'layer_norm of (tokens, features), without its checks.';

create function sql_diffusion.layer_norm(
  input real[],
  weight real[] default null,
  bias real[] default null,
  eps double precision default 1e-5
) returns real[]
language sql immutable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'layer_norm: input'),
         case when weight is not null then sql_diffusion.check_tensor(weight, 'layer_norm: weight', 'features') end,
         case when bias is not null then sql_diffusion.check_tensor(bias, 'layer_norm: bias', 'features') end,
         case when array_length(weight, 1) <> array_length(input, array_ndims(input)) then
           sql_diffusion.fail(format('layer_norm: weight has %s elements, expected one for each of the %s features of input',
                                     array_length(weight, 1), array_length(input, array_ndims(input))))
         end,
         case when array_length(bias, 1) <> array_length(input, array_ndims(input)) then
           sql_diffusion.fail(format('layer_norm: bias has %s elements, expected one for each of the %s features of input',
                                     array_length(bias, 1), array_length(input, array_ndims(input))))
         end,
         case when eps is null or not (eps >= 0 and eps < 'infinity') then
           sql_diffusion.fail(format('layer_norm: eps is %s, expected a finite number of at least 0', coalesce(eps::text, 'null')))
         end;
  select sql_diffusion.check_values(input, 'layer_norm: input'),
         sql_diffusion.check_values(weight, 'layer_norm: weight'),
         sql_diffusion.check_values(bias, 'layer_norm: bias');
  select sql_diffusion.with_shape(array_agg(normalized.element), sql_diffusion.shape(input))
  from (select array_agg(element) as elements
        from (select unnest(input) as element) elements offset 0) flat,
       lateral (select unnest(sql_diffusion.layer_norm_tokens(sql_diffusion.fold(flat.elements, array_length(input, array_ndims(input))), weight, bias, eps)) as element) normalized;
end;
comment on function sql_diffusion.layer_norm(real[], real[], real[], double precision) is
  'Layer normalization (Ba, Kiros and Hinton 2016, arXiv 1607.06450, equation 3) over the last dimension: the features of each token of the input, shape (..., features), are brought to mean 0 and '
  'population variance 1, eps being added to the variance; then each feature is multiplied by its weight and its bias is added. torch.nn.functional.layer_norm; without weight 1, without bias 0.';

create function sql_diffusion.layer_norm_module(
  input sql_diffusion.feature_maps, model text, component text, key text, eps double precision, name text
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  -- the statistics are those of a pixel over the channels, so they are read across the planes, and then every plane is normalized with all of them
  select array_agg(plane.pixels order by channel.channel), (input).height, (input).width,
         array_agg(plane.mean order by channel.channel), array_agg(plane.variance order by channel.channel),
         array_agg(plane.low order by channel.channel), array_agg(plane.high order by channel.channel)
  from (select case
               when p.key is null
               then sql_diffusion.check_parameter(layer_norm_module.model, layer_norm_module.component, layer_norm_module.key, name)
               when size.channels <> p.weight_shape[1]
               then sql_diffusion.fail(format('%s: input has %s channels, expected %s, as %s takes', name, size.channels, p.weight_shape[1], layer_norm_module.key))
               end as refused,
               p.weight,
               p.bias,
               size.channels
        from (select cardinality((input).mean) as channels) size
             left join sql_diffusion.parameters p
             on p.model = layer_norm_module.model and p.component = layer_norm_module.component and p.key = layer_norm_module.key
        offset 0) module,
       lateral (select array_agg(element) as elements
                from (select unnest((input).planes) as element) elements
                where module.refused is null
                offset 0) flat,
       lateral (select array_agg(own.mean order by pixel) as means,
                       array_agg(1 / sqrt(own.variance + eps) order by pixel) as factors
                from generate_series(1, (input).height * (input).width) pixel,
                     lateral (select avg(x) as mean, var_pop(x) as variance
                              from (select flat.elements[i]::float8 as x
                                    from (select generate_series(pixel, cardinality(flat.elements), (input).height * (input).width) as i) features offset 0) feature offset 0) own
                offset 0) statistics,
       lateral (select own.w, coalesce(own.b, 0) as b, own.channel
                from unnest(module.weight, module.bias) with ordinality as own (w, b, channel)) channel,
       lateral (select array_agg(y) as pixels, avg(y::float8) as mean, var_pop(y::float8) as variance, min(y)::float8 as low, max(y)::float8 as high
                from (select ((x - mean) * factor * channel.w + channel.b + 1e-29 - 1e-29)::real as y
                      from (select unnest((input).planes[channel.channel : channel.channel]) as x,
                                   unnest(statistics.means) as mean,
                                   unnest(statistics.factors) as factor offset 0) pixels) normalized offset 0) plane
  offset 0;
end;
comment on function sql_diffusion.layer_norm_module(sql_diffusion.feature_maps, text, text, text, double precision, text) is
  'layer_norm over the channels of every pixel, with the parameters of the module with this key. The name opens error messages. A set of one row, so that the planner puts the query in its place.';
