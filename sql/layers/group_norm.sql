-- Normalizing is one multiplication and one addition for each channel: what they are comes of the statistics, and whoever reads the
-- pixels next can do them on the way (conv2d_operands).
create type sql_diffusion.normalization as (
  scale      double precision[],
  shift      double precision[],
  size       double precision[],
  with_silu  boolean
);
comment on type sql_diffusion.normalization is
  'What a group norm, and silu after it where with_silu, makes of the pixels of channel c: f(pixel * scale[c] + shift[c]), of at most size[c] either way.';

create function sql_diffusion.group_norm_of_maps(
  input sql_diffusion.feature_maps, num_groups int, weight real[], bias real[], eps double precision, with_silu boolean
) returns sql_diffusion.normalization
language sql immutable parallel safe
set jit = off
return (
  select row(array_agg(affine.scale order by channel),
             array_agg(affine.shift order by channel),
             array_agg(case when with_silu then greatest(silu.at_low, silu.at_high, silu.at_bottom) else greatest(-affine.low, affine.high) end order by channel),
             with_silu)::sql_diffusion.normalization
  -- the variance of a group is the mean of its channels' variances and the variance of their means
  from (select own.channel, own.low, own.high, own.weight, own.bias,
               avg(own.mean) over same_group as mean,
               avg(own.variance) over same_group + var_pop(own.mean) over same_group as variance
        from unnest((input).mean, (input).variance, (input).low, (input).high, weight, bias) with ordinality as own (mean, variance, low, high, weight, bias, channel)
        window same_group as (partition by (own.channel - 1) / (cardinality((input).mean) / num_groups))) statistics,
       lateral (select coalesce(statistics.weight, 1) / sqrt(statistics.variance + eps) as factor offset 0) scaled,
       lateral (select scaled.factor as scale,
                       coalesce(statistics.bias, 0) - statistics.mean * scaled.factor as shift offset 0) own,
       lateral (select own.scale,
                       own.shift,
                       least(statistics.low * own.scale, statistics.high * own.scale) + own.shift as low,
                       greatest(statistics.low * own.scale, statistics.high * own.scale) + own.shift as high offset 0) affine,
       -- silu falls to its least value at -1.278 and rises on either side
       lateral (select abs(affine.low / 2 * (1 + tanh(affine.low / 2))) as at_low,
                       abs(affine.high / 2 * (1 + tanh(affine.high / 2))) as at_high,
                       case when affine.low < -1.2784645 and affine.high > -1.2784645 then 0.2784646 end as at_bottom) silu);
comment on function sql_diffusion.group_norm_of_maps(sql_diffusion.feature_maps, int, real[], real[], double precision, boolean) is
  'What group_norm is to do to each channel of this input. It does not check the arguments.';

create function sql_diffusion.group_norm_planes(input real[], norm sql_diffusion.normalization) returns real[]
language sql immutable parallel safe
set jit = off
return (
  select array_agg(plane.elements order by channel)
  from generate_series(1, array_length(input, 1)) channel,
       lateral (select (norm).scale[channel] as scale, (norm).shift[channel] as shift, (norm).with_silu as with_silu offset 0) own,
       -- tanh cannot overflow, as the exp of a sigmoid would: x / (1 + exp(-x)) is x/2 (1 + tanh(x/2))
       lateral (select array_agg((case when own.with_silu then y / 2 * (1 + tanh(y / 2)) else y end + 1e-29 - 1e-29)::real) as elements
                from (select unnest(input[channel:channel]) * own.scale + own.shift as y offset 0) normalized offset 0) plane);
comment on function sql_diffusion.group_norm_planes(real[], sql_diffusion.normalization) is
  'The input normalized, (channels, elements of a channel).';

create function sql_diffusion.group_norm(
  input real[],
  num_groups int,
  weight real[] default null,
  bias real[] default null,
  eps double precision default 1e-5
) returns real[]
language sql immutable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'group_norm: input'),
         case when weight is not null then sql_diffusion.check_tensor(weight, 'group_norm: weight', 'channels') end,
         case when bias is not null then sql_diffusion.check_tensor(bias, 'group_norm: bias', 'channels') end,
         case when num_groups is null or num_groups < 1 or array_length(input, 1) % num_groups <> 0 then
           sql_diffusion.fail(format('group_norm: num_groups is %s, expected a divisor of the %s channels of input',
                                     coalesce(num_groups::text, 'null'), array_length(input, 1)))
         end,
         case when array_length(weight, 1) <> array_length(input, 1) then
           sql_diffusion.fail(format('group_norm: weight has %s elements, expected one for each of the %s channels of input',
                                     array_length(weight, 1), array_length(input, 1)))
         end,
         case when array_length(bias, 1) <> array_length(input, 1) then
           sql_diffusion.fail(format('group_norm: bias has %s elements, expected one for each of the %s channels of input',
                                     array_length(bias, 1), array_length(input, 1)))
         end,
         case when eps is null or not (eps >= 0 and eps < 'infinity') then
           sql_diffusion.fail(format('group_norm: eps is %s, expected a finite number of at least 0', coalesce(eps::text, 'null')))
         end;
  select sql_diffusion.check_values(input, 'group_norm: input'),
         sql_diffusion.check_values(weight, 'group_norm: weight'),
         sql_diffusion.check_values(bias, 'group_norm: bias');
  select sql_diffusion.with_shape(array_agg(element), sql_diffusion.shape(input))
  from (select unnest(sql_diffusion.group_norm_planes(input, sql_diffusion.group_norm_of_maps(sql_diffusion.to_maps(input), num_groups, weight, bias, eps, false))) as element) elements;
end;
comment on function sql_diffusion.group_norm(real[], int, real[], real[], double precision) is
  'Group normalization (Wu and He 2018, equations 1, 2 and 7): the channels of the input, shape (channels, ...), fall into num_groups groups of neighbours; each group '
  'is brought to mean 0 and population variance 1, eps being added to the variance; then each channel is multiplied by its weight and its bias is added. '
  'torch.nn.functional.group_norm; without weight 1, without bias 0.';
