-- The layers as one would write them first, for bench/sql_layers alone: a row for each output value and input channel, a product
-- for each tap, and a sum over the rows. (A row for each single product, grouped, is several times slower still.)

create schema plain;

create function plain.conv2d(input real[], weight real[], stride int, padding int) returns real[]
language sql immutable parallel safe
set jit = off
return (
  select array_agg((
           select array_agg((
                    select array_agg((
                             select sum(case when array_length(weight, 3) = 3
                                        then coalesce(input[i][y * stride - padding + 1][x * stride - padding + 1], 0)::float8 * weight[o][i][1][1]
                                           + coalesce(input[i][y * stride - padding + 1][x * stride - padding + 2], 0)::float8 * weight[o][i][1][2]
                                           + coalesce(input[i][y * stride - padding + 1][x * stride - padding + 3], 0)::float8 * weight[o][i][1][3]
                                           + coalesce(input[i][y * stride - padding + 2][x * stride - padding + 1], 0)::float8 * weight[o][i][2][1]
                                           + coalesce(input[i][y * stride - padding + 2][x * stride - padding + 2], 0)::float8 * weight[o][i][2][2]
                                           + coalesce(input[i][y * stride - padding + 2][x * stride - padding + 3], 0)::float8 * weight[o][i][2][3]
                                           + coalesce(input[i][y * stride - padding + 3][x * stride - padding + 1], 0)::float8 * weight[o][i][3][1]
                                           + coalesce(input[i][y * stride - padding + 3][x * stride - padding + 2], 0)::float8 * weight[o][i][3][2]
                                           + coalesce(input[i][y * stride - padding + 3][x * stride - padding + 3], 0)::float8 * weight[o][i][3][3]
                                        else input[i][y * stride + 1][x * stride + 1]::float8 * weight[o][i][1][1]
                                        end)::real
                             from generate_series(1, array_length(input, 1)) i) order by x)
                    from generate_series(0, (array_length(input, 3) + 2 * padding - array_length(weight, 4)) / stride) x) order by y)
           from generate_series(0, (array_length(input, 2) + 2 * padding - array_length(weight, 3)) / stride) y) order by o)
  from generate_series(1, array_length(weight, 1)) o);

create function plain.attention(query real[], key real[], value real[]) returns real[]
language sql immutable parallel safe
set jit = off
return (
  with score as (
    select i, j, sum(query[e][i]::float8 * key[e][j]) / sqrt(array_length(query, 1)) as s
    from generate_series(1, array_length(query, 2)) i,
         generate_series(1, array_length(key, 2)) j,
         generate_series(1, array_length(query, 1)) e
    group by i, j
  ),
  weight as (
    select score.i, score.j, exp(score.s - max(score.s) over (partition by score.i)) as w
    from score
  ),
  output as (
    select e, weight.i, sum(weight.w * value[e][weight.j]) / sum(weight.w) as v
    from weight, generate_series(1, array_length(value, 1)) e
    group by e, weight.i
  )
  select array_agg(line.elements order by line.e)
  from (select output.e, array_agg(output.v::real order by output.i) as elements
        from output
        group by output.e) line);
