-- Between images and latents: what an autoencoder does for a latent diffusion model. Whether a component is an autoencoder, its plan says: it takes an input latent.

create function sql_diffusion.autoencoder(model text, name text) returns text
language sql stable parallel safe
begin atomic
  select sql_diffusion.component_config(model, coalesce((select min(c.component collate "C") from sql_diffusion.components c where c.model = autoencoder.model), 'unet'));
  with found as (
    select min(c.component collate "C") as component
    from sql_diffusion.components c
    where c.model = autoencoder.model
      and exists (select from sql_diffusion.network_plan(c.config) p where p.operation = 'input' and p.key = 'latent')
  )
  select case when f.component is null
              then sql_diffusion.fail(format('%s: model "%s" has no autoencoder among its components, which are %s', name, model,
                                             (select string_agg(c.component, ', ' order by c.component collate "C") from sql_diffusion.components c where c.model = autoencoder.model)),
                                      errcode => '55000')::text
              else f.component
         end
  from found f;
end;
comment on function sql_diffusion.autoencoder(text, text) is
  'The component of a model that is its autoencoder (vae, vqvae). Errors: 42704 for an unknown model, 55000 for one that has none. The name opens the message.';

create function sql_diffusion.decoder(model text) returns table (component text, scaling_factor double precision)
language sql stable parallel safe rows 1
begin atomic
  -- LDMSuperResolutionPipeline decodes what the diffusion makes as it is.
  select c.component, coalesce(case when m.pipeline <> 'LDMSuperResolutionPipeline' then (sql_diffusion.network_config(c.config) ->> 'scaling_factor')::double precision end, 1)
  from sql_diffusion.components c
       join sql_diffusion.models m on m.name = c.model
  where c.model = decoder.model
    and c.component in ('vae', 'vqvae');
end;
comment on function sql_diffusion.decoder(text) is
  'The autoencoder that makes the pictures of a model''s latents, which are its own times scaling_factor; no row for a model of pixels.';

create function sql_diffusion.latent_channels(model text, component text) returns int
language sql stable parallel safe
begin atomic
  select p.in_channels
  from sql_diffusion.plan(model, component) p
  where p.operation = 'input'
    and p.key = 'latent';
end;
comment on function sql_diffusion.latent_channels(text, text) is 'The channels of the latents of this autoencoder.';

create function sql_diffusion.encoded_channels(model text, component text) returns int
language sql stable parallel safe
begin atomic
  select s.out_channels
  from (select sql_diffusion.plan_part(array_agg(p order by p.step), '{image}') as steps from sql_diffusion.plan(model, component) p) part,
       unnest(part.steps) s
  order by s.step desc
  limit 1;
end;
comment on function sql_diffusion.encoded_channels(text, text) is
  'The channels of what this autoencoder''s encoder makes of an image: those of the latents, or twice as many where it gives their distribution.';

create function sql_diffusion.vae_decode(latent real[], model text) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.from_maps(r.hidden)
  from sql_diffusion.run_network(array[row('latent', latent)]::sql_diffusion.network_input[], model, sql_diffusion.autoencoder(model, 'vae_decode'), 'vae_decode') r
  order by r.step desc
  limit 1;
end;
comment on function sql_diffusion.vae_decode(real[], text) is
  'The image (channels, height, width, values about -1 to 1) that a model''s autoencoder makes of a latent (latent channels, height, width), as diffusers'' vae.decode(latent).sample: the latent is the autoencoder''s own, '
  'which is that of the diffusion divided by the scaling_factor of its configuration. A VQModel takes the nearest vectors of its codebook. Errors: 42704 unknown model, 55000 a model that is unfinished or has no autoencoder, 22023 wrong latent. '
  'Rombach et al. (arXiv 2112.10752), section 3.1.';

create function sql_diffusion.check_moments(model text) returns boolean
language sql stable parallel safe
begin atomic
  select case when sql_diffusion.encoded_channels(model, a.component) <> 2 * sql_diffusion.latent_channels(model, a.component)
              then sql_diffusion.fail(format('vae_moments: component %s of model "%s" is of class %s, which has no distribution of latents', a.component, model,
                                             sql_diffusion.network_class(sql_diffusion.component_config(model, a.component))),
                                      'vae_encode gives its latent.', '0A000')
              else true
         end
  from sql_diffusion.autoencoder(model, 'vae_moments') a (component);
end;
comment on function sql_diffusion.check_moments(text) is
  'True for a model whose autoencoder is a variational one, otherwise an error: 0A000, or those of autoencoder.';

create function sql_diffusion.vae_moments(image real[], model text) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.check_moments(model);
  select sql_diffusion.from_maps(r.hidden)
  from sql_diffusion.run_network(array[row('image', image)]::sql_diffusion.network_input[], model, sql_diffusion.autoencoder(model, 'vae_moments'), 'vae_moments') r
  order by r.step desc
  limit 1;
end;
comment on function sql_diffusion.vae_moments(real[], text) is
  'The distribution that a model''s variational autoencoder finds for the latent of an image (channels, height, width, values -1 to 1): the means of the latent channels, and after them the logarithms of their variances, '
  '(2 latent channels, height, width), as parameters of diffusers'' vae.encode(image).latent_dist; vae_sample draws from it. Errors as for vae_encode, and 0A000 for an autoencoder without a distribution. '
  'Kingma and Welling (arXiv 1312.6114), appendix C.2.';

create function sql_diffusion.vae_encode(image real[], model text) returns real[]
language sql stable parallel safe
begin atomic
  select (sql_diffusion.from_maps(r.hidden))[1 : sql_diffusion.latent_channels(model, sql_diffusion.autoencoder(model, 'vae_encode'))]
  from sql_diffusion.run_network(array[row('image', image)]::sql_diffusion.network_input[], model, sql_diffusion.autoencoder(model, 'vae_encode'), 'vae_encode') r
  order by r.step desc
  limit 1;
end;
comment on function sql_diffusion.vae_encode(real[], text) is
  'The latent (latent channels, height, width) that a model''s autoencoder finds for an image (channels, height, width, values -1 to 1), which vae_decode takes back: of a variational autoencoder the most likely one, as '
  'diffusers'' vae.encode(image).latent_dist.mode(); of others vae.encode(image).latents. It is not multiplied by scaling_factor. '
  'Errors: 42704 unknown model, 55000 a model that is unfinished or has no autoencoder, 22023 wrong image.';

create function sql_diffusion.vae_sample(moments real[], noise real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(moments, 'vae_sample: moments', '2 latent channels, height, width'),
         sql_diffusion.check_tensor(noise, 'vae_sample: noise', 'latent channels, height, width');
  select case when array_length(moments, 1) <> 2 * array_length(noise, 1) or (sql_diffusion.shape(moments))[2:] <> (sql_diffusion.shape(noise))[2:]
              then sql_diffusion.fail(format('vae_sample: moments has shape %s, expected that of noise, %s, but for twice the channels', sql_diffusion.shape(moments), sql_diffusion.shape(noise)))
         end,
         sql_diffusion.check_values(moments, 'vae_sample: moments'),
         sql_diffusion.check_values(noise, 'vae_sample: noise');
  select sql_diffusion.with_shape(array_agg((mean + exp(0.5::float8 * least(greatest(variance, -30), 20)) * drawn)::real order by position), sql_diffusion.shape(noise))
  from (select unnest(moments[: array_length(noise, 1)])::float8 as mean,
               unnest(moments[array_length(noise, 1) + 1 :])::float8 as variance,
               unnest(noise)::float8 as drawn,
               generate_series(1, cardinality(noise)) as position) element;
end;
comment on function sql_diffusion.vae_sample(real[], real[]) is
  'A latent from the distribution that vae_moments gives (2 latent channels, height, width), with normal noise (latent channels, height, width; randn): mean + exp(log variance / 2) * noise, the logarithm kept from -30 to 20, '
  'as diffusers'' latent_dist.sample(generator). Kingma and Welling (arXiv 1312.6114), section 2.4.';
