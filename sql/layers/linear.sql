create function sql_diffusion.linear_core(input real[], weight real[], bias real[], name text) returns real[]
language sql immutable parallel safe
set jit = off
return (
  -- (tokens, in) x (out, in): one pass over a row of the weight for each token where there are few,
  -- a 1x1 convolution of the transposed input where there are many
  select case
         when token.number < 8 then
           (select sql_diffusion.with_shape(array_agg(((select sum(x::float8 * w)
                                                        from (select unnest(token.flat[first : first + size.features - 1]) as x, unnest(weight[o:o]) as w) pair)
                                                       + coalesce(bias[o], 0) + 1e-29 - 1e-29)::real order by first, o), size.shape)
            from generate_series(1, token.number * size.features, size.features) first,
                 generate_series(1, array_length(weight, 1)) o)
         else
           -- 4096 tokens at a time, which a big number has room for
           (select sql_diffusion.with_shape(array_agg(output.element), size.shape)
            from (select unnest(sql_diffusion.transpose((sql_diffusion.conv2d_core(
                           sql_diffusion.to_maps(sql_diffusion.transpose(sql_diffusion.fold(token.flat[start * size.features + 1 : (start + 4096) * size.features], size.features)),
                                                 1, least(4096, token.number - start)), weight, bias, 1, 0, name, corrected => true)).planes)) as element
                  from (select generate_series(0, token.number - 1, 4096) as start) chunks) output)
         end
  from (select array_length(weight, 2) as features,
               (sql_diffusion.shape(input))[: array_ndims(input) - 1] || array_length(weight, 1) as shape offset 0) size,
       lateral (select array_agg(element) as flat,
                       (count(*) / size.features)::int as number
                from (select unnest(input) as element) elements) token);
comment on function sql_diffusion.linear_core(real[], real[], real[], text) is
  'linear without its checks. The name opens the message where the input is not finite.';

create function sql_diffusion.linear(input real[], weight real[], bias real[] default null) returns real[]
language sql immutable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'linear: input'),
         sql_diffusion.check_tensor(weight, 'linear: weight', 'out, in'),
         case when bias is not null then sql_diffusion.check_tensor(bias, 'linear: bias', 'out') end;
  select case when array_length(input, array_ndims(input)) <> array_length(weight, 2) then
           sql_diffusion.fail(format('linear: input has shape %s, expected a last dimension of %s, as weight of shape %s takes',
                                     sql_diffusion.shape(input), array_length(weight, 2), sql_diffusion.shape(weight)))
         end,
         case when array_length(bias, 1) <> array_length(weight, 1) then
           sql_diffusion.fail(format('linear: bias has %s elements, expected one for each of the %s outputs of weight',
                                     array_length(bias, 1), array_length(weight, 1)))
         end,
         sql_diffusion.check_values(input, 'linear: input'),
         sql_diffusion.check_values(weight, 'linear: weight'),
         sql_diffusion.check_values(bias, 'linear: bias');
  select sql_diffusion.linear_core(input, weight, bias, 'linear: input');
end;
comment on function sql_diffusion.linear(real[], real[], real[]) is
  'input x transposed weight + bias over the last dimension, torch.nn.functional.linear: input (..., in), weight (out, in), bias (out) or NULL for none, output (..., out).';
