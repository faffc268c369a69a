create function sql_diffusion.timestep_embedding(
  timestep double precision,
  embedding_dim int,
  flip_sin_to_cos boolean default false,
  downscale_freq_shift double precision default 1,
  max_period double precision default 10000
) returns real[]
language sql immutable strict parallel safe
begin atomic
  select case when not abs(timestep) <= 3.4e38 then
           sql_diffusion.fail(format('timestep_embedding: timestep is %s, expected a finite number of single precision', timestep))
         end,
         case when embedding_dim not between 2 and 65536 then
           sql_diffusion.fail(format('timestep_embedding: embedding_dim is %s, expected from 2 to 65536', embedding_dim))
         end,
         case when not (downscale_freq_shift >= -1e30 and downscale_freq_shift < embedding_dim / 2) then
           sql_diffusion.fail(format('timestep_embedding: downscale_freq_shift is %s, expected from -1e30 to less than half of embedding_dim, %s',
                                     downscale_freq_shift, embedding_dim / 2))
         end,
         case when not (max_period >= 1e-30 and max_period <= 1e30) then
           sql_diffusion.fail(format('timestep_embedding: max_period is %s, expected from 1e-30 to 1e30', max_period))
         end;
  -- Ho et al. 2020 (as Vaswani et al. 2017, section 3.5): the angles are timestep * max_period ^ (-i / (half - shift)).
  -- In float32 where PyTorch is: at an angle of 1000 its rounding is 6e-5, and the checkpoint was trained with it.
  select case when flip_sin_to_cos then wave.cosines || wave.sines else wave.sines || wave.cosines end
         || array_fill(0::real, array[embedding_dim % 2])
  -- What is next to nothing counts as 0, since single precision would refuse it.
  from (select array_agg(sin(angle.rounded::float8)::real order by i) as sines,
               array_agg(cos(angle.rounded::float8)::real order by i) as cosines
        from generate_series(0, embedding_dim / 2 - 1) i,
             lateral (select (-ln(max_period))::real * i::real / (embedding_dim / 2 - downscale_freq_shift)::real as exponent) power,
             lateral (select case when abs(timestep) > 1e-30 then timestep::real else 0 end::float8
                             * exp(greatest(least(power.exponent, 80), -80)::float8)::real as exact) product,
             lateral (select case when abs(product.exact) > 1e-30 then product.exact::real else 0 end as rounded) angle) wave;
end;
comment on function sql_diffusion.timestep_embedding(double precision, int, boolean, double precision, double precision) is
  'Sinusoidal embedding of a timestep, shape (embedding_dim): the sines, then the cosines (the other way round with flip_sin_to_cos), a last 0 '
  'where embedding_dim is odd. The angles are timestep * max_period ^ (-i / (half - downscale_freq_shift)). diffusers'' get_timestep_embedding; Ho et al. 2020, after Vaswani et al. 2017, section 3.5.';
