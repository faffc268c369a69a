-- gelu is x/2 (1 + tanh(x p)), exactly so with tanh(x p) = erf(x / sqrt(2)), which gives p a smooth function of x^2: a quotient of two cubic polynomials is
-- within 5e-9 of erf everywhere. (PostgreSQL has erf() since version 16.) The approximation with tanh has p = sqrt(2 / pi) (1 + 0.044715 x^2). Beyond 6 either is 1 or 0 to the last digit of a real.
create function sql_diffusion.gelu_factor(square double precision, approximate text) returns double precision
language sql immutable parallel safe
return
  case when approximate = 'tanh'
  then 0.7978845608028654 + 0.035677408136300125 * square
  else (((1.8919879781168904e-4 * square + 7.479821172701955e-3) * square + 9.880476453360715e-2) * square + 0.7978845937040414)
       / (((3.962417694671399e-5 * square + 5.855118901470752e-3) * square + 7.829371178428104e-2) * square + 1)
  end;
comment on function sql_diffusion.gelu_factor(double precision, text) is
  'The p of gelu(x) = x/2 (1 + tanh(x p)), of x^2, which is at most 36. approximate is none or tanh.';

create function sql_diffusion.gelu(input real[], approximate text default 'none') returns real[]
language sql immutable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'gelu: input'),
         case when approximate is null or approximate not in ('none', 'tanh') then
           sql_diffusion.fail(format('gelu: approximate is %s, expected none or tanh', coalesce(approximate, 'null')))
         end;
  select sql_diffusion.check_values(input, 'gelu: input');
  select sql_diffusion.with_shape(array_agg((x / 2 * (1 + tanh(x * sql_diffusion.gelu_factor(square, approximate))) + 1e-29 - 1e-29)::real), sql_diffusion.shape(input))
  from (select x, least(x * x, 36) as square
        from (select unnest(input)::float8 as x offset 0) elements offset 0) squared;
end;
comment on function sql_diffusion.gelu(real[], text) is
  'x Phi(x) of every element, Phi being the distribution function of a standard normal variable, (1 + erf(x / sqrt(2))) / 2: Hendrycks and Gimpel 2016 (arXiv 1606.08415), equation 2; '
  'torch.nn.functional.gelu. approximate: none, or tanh for the approximation x/2 (1 + tanh(sqrt(2 / pi) (x + 0.044715 x^3))). A tensor of any shape; the output has the same.';

create function sql_diffusion.gelu_of_maps(input sql_diffusion.feature_maps, approximate text) returns setof sql_diffusion.feature_maps
language sql immutable parallel safe rows 1
begin atomic
  select array_agg(plane.pixels order by channel), (input).height, (input).width, array_agg(plane.mean order by channel), array_agg(plane.variance order by channel),
         array_agg(plane.low order by channel), array_agg(plane.high order by channel)
  from generate_series(1, array_length((input).planes, 1)) channel,
       lateral (select array_agg(pixel) as pixels, avg(pixel::float8) as mean, var_pop(pixel::float8) as variance, min(pixel)::float8 as low, max(pixel)::float8 as high
                from (select (x / 2 * (1 + tanh(x * sql_diffusion.gelu_factor(square, approximate))) + 1e-29 - 1e-29)::real as pixel
                      from (select x, least(x * x, 36) as square
                            from (select unnest((input).planes[channel:channel])::float8 as x offset 0) elements offset 0) squared) activated offset 0) plane
  offset 0;
end;
comment on function sql_diffusion.gelu_of_maps(sql_diffusion.feature_maps, text) is 'gelu of feature maps. A set of one row, so that the planner puts the query in its place.';
