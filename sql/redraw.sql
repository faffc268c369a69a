-- Pictures that begin with a picture: it is changed (image_to_image), filled in where a mask says (inpaint), or made larger (upscale). The loop is that of the
-- pipelines; what is here is how it begins, and in which order noise is drawn. SDEdit (Meng et al., arXiv 2108.01073); Rombach et al. (arXiv 2112.10752), sections
-- 4.4 and 4.5; diffusers' StableDiffusionImg2ImgPipeline, StableDiffusionInpaintPipeline, those of StableDiffusionXL, LatentConsistencyModelImg2ImgPipeline,
-- StableDiffusionUpscalePipeline and LDMSuperResolutionPipeline.

create type sql_diffusion.redraw_settings as (
  takes_prompt    boolean,
  autoencoder     text,
  variational     boolean,
  scaling_factor  double precision,
  latent_shape    int[],
  height          int,
  width           int,
  strength        double precision,
  guidance_scale  real,
  encodes_image   boolean,
  keeps_image     boolean,
  begins_with_noise boolean,
  shows_mask      boolean,
  shows_image     boolean,
  scales_shown    boolean,
  noise_level     int,
  added_original  double precision,
  added_noise     double precision
);
comment on type sql_diffusion.redraw_settings is
  'What a call of image_to_image, inpaint or upscale comes to: whether the model takes a prompt; its autoencoder (NULL where it makes pixels), whether that gives distributions of latents, and their scaling_factor; the shape of '
  'the latent (channels, height, width), the size of the finished picture; strength and guidance (NULL for those of the pipeline). encodes_image: the picture''s own latent is made; keeps_image: it is put back outside of the mask after every step; '
  'begins_with_noise: the first sample is noise alone; shows_mask: the U-Net sees the mask and the rest of the picture beside the latent; shows_image: it sees the small picture there, '
  'with noise of noise_level by added_original and added_noise where these are not NULL. scales_shown: what it sees is multiplied by input_scale as the sample is.';

create function sql_diffusion.check_task(task text) returns boolean
language sql immutable parallel safe
return case when task in ('image_to_image', 'inpaint', 'upscale') then true
            else sql_diffusion.fail(format('task is %s, expected image_to_image, inpaint or upscale', coalesce(quote_literal(task), 'null'))) end;
comment on function sql_diffusion.check_task(text) is 'True for what can be done with a picture that is begun with, otherwise an error (22023).';

create function sql_diffusion.redraw_settings(task text, image_shape int[], mask_shape int[], model text, strength real, guidance_scale real, noise_level int)
  returns sql_diffusion.redraw_settings
language sql stable parallel safe
begin atomic
  select sql_diffusion.check_task(task), sql_diffusion.component_config(model);
  with network as materialized (
    select sql_diffusion.network_config(sql_diffusion.component_config(model)) as config,
           array(select p from sql_diffusion.plan(model) p order by p.step) as steps,
           (select d.component from sql_diffusion.decoder(model) d) as autoencoder
  ),
  fact as materialized (
    select (n.config ->> 'in_channels')::int as in_channels,
           (n.config ->> 'out_channels')::int as out_channels,
           1 << sql_diffusion.deepest_level(n.steps) as factor,
           coalesce((select 1 << p.level from unnest(n.decoder) p where p.operation = 'input' and p.key = 'latent'), 1) as scale,
           n.autoencoder,
           (select d.scaling_factor from sql_diffusion.decoder(model) d) as scaling_factor,
           (select p.in_channels from unnest(n.decoder) p where p.operation = 'input' and p.key = 'image') as image_channels,
           exists (select from unnest(n.steps) p where p.operation = 'input' and p.key = 'encoder_hidden_states') as takes_prompt,
           exists (select from unnest(n.steps) p where p.operation = 'input' and p.key = 'text_embeds') as has_sizes,
           (select (p.settings ->> 'num_embeddings')::int from unnest(n.steps) p where p.operation = 'input' and p.key = 'class_labels') as levels,
           m.pipeline, m.defaults
    from (select w.config, w.steps, w.autoencoder, case when w.autoencoder is not null then array(select p from sql_diffusion.plan(model, w.autoencoder) p) end as decoder from network w) n,
         sql_diffusion.models m
    where m.name = redraw_settings.model
  ),
  wanted as materialized (
    select f.in_channels, f.out_channels, f.factor, f.scale, f.autoencoder, f.scaling_factor, f.takes_prompt, f.has_sizes, f.defaults, f.pipeline, f.levels,
           case when task = 'upscale' then f.in_channels - f.out_channels else coalesce(f.image_channels, f.out_channels) end as channels,
           case when task = 'upscale' then f.factor else f.factor * f.scale end as multiple,
           coalesce(redraw_settings.strength::numeric::double precision,
                    case task when 'image_to_image' then case when f.has_sizes then 0.3 else 0.8 end
                              when 'inpaint' then case when f.has_sizes then 0.9999 else 1 end end) as strength,
           coalesce(redraw_settings.noise_level, 20) as noise_level,
           coalesce((f.defaults ->> 'max_noise_level')::int, 350) as max_noise_level,
           f.in_channels = 2 * f.out_channels + 1 and f.autoencoder is not null as is_inpainting,
           f.in_channels > f.out_channels and f.autoencoder is not null and (f.levels is not null or not f.takes_prompt) as is_upscaling
    from fact f
    where case
          when redraw_settings.strength is not null and task = 'upscale'
          then sql_diffusion.fail(format('strength is %s, but upscale does not use it', redraw_settings.strength))
          when redraw_settings.strength is not null and not (redraw_settings.strength > 0 and redraw_settings.strength <= 1)
          then sql_diffusion.fail(format('strength is %s, expected above 0 and at most 1', redraw_settings.strength))
          else true end
  ),
  noised as materialized (
    select case when task = 'upscale' and w.is_upscaling and w.takes_prompt and w.noise_level between 0 and least(w.max_noise_level, w.levels - 1) and jsonb_typeof(w.defaults -> 'low_res_scheduler') = 'object'
                then (select s from sql_diffusion.scheduler_timesteps(w.defaults -> 'low_res_scheduler', 'ddpm', timesteps => array[w.noise_level]) s) end as step
    from wanted w
  )
  select row(
           w.takes_prompt, w.autoencoder,
           w.autoencoder is not null and sql_diffusion.encoded_channels(model, w.autoencoder) = 2 * sql_diffusion.latent_channels(model, w.autoencoder),
           w.scaling_factor,
           case when task = 'upscale' then array[w.out_channels, image_shape[2], image_shape[3]]
                else array[w.out_channels, image_shape[2] / w.scale, image_shape[3] / w.scale] end,
           case when task = 'upscale' then image_shape[2] * w.scale else image_shape[2] end,
           case when task = 'upscale' then image_shape[3] * w.scale else image_shape[3] end,
           coalesce(w.strength, 1),
           coalesce(redraw_settings.guidance_scale, (w.defaults ->> 'guidance_scale')::real,
                    case when not w.takes_prompt then null when task = 'upscale' then 9 when task = 'inpaint' and w.has_sizes then 7.5 end),
           task = 'image_to_image' or task = 'inpaint' and (not w.is_inpainting or w.strength < 1),
           task = 'inpaint' and not w.is_inpainting,
           task = 'upscale' or task = 'inpaint' and w.strength = 1,
           task = 'inpaint' and w.is_inpainting,
           task = 'upscale',
           task = 'upscale' and not w.takes_prompt,
           case when task = 'upscale' and w.takes_prompt then w.noise_level end,
           case when task = 'upscale' and w.takes_prompt then (n.step).added_original end,
           case when task = 'upscale' and w.takes_prompt then (n.step).added_noise end
         )::sql_diffusion.redraw_settings
  from wanted w, noised n
  where case
        when task = 'upscale' and not w.is_upscaling
        then sql_diffusion.fail(format('model "%s" does not upscale: its U-Net takes %s channels and makes %s', model, w.in_channels, w.out_channels), 'Models that do are those of StableDiffusionUpscalePipeline and LDMSuperResolutionPipeline.')
        when task <> 'upscale' and w.in_channels <> w.out_channels and not (task = 'inpaint' and w.is_inpainting)
        then sql_diffusion.fail(format('%s: the U-Net of model "%s" takes %s channels and makes %s, expected as many', task, model, w.in_channels, w.out_channels)
                                || case when task = 'inpaint' then format(' or %s', 2 * w.out_channels + 1) else '' end,
                                case when w.is_inpainting then 'It fills pictures in: inpaint(image, mask, prompt, seed, model => ''...'').' when w.is_upscaling then 'It makes pictures larger: upscale(image, seed, model => ''...'').' end)
        when image_shape[1] <> w.channels
        then sql_diffusion.fail(format('%s: image has %s channels, expected %s', task, image_shape[1], w.channels),
                                case when image_shape[1] > w.channels then format('Without its last: image[1:%s].', w.channels) end)
        when image_shape[2] % w.multiple <> 0 or image_shape[3] % w.multiple <> 0
        then sql_diffusion.fail(format('%s: image is %s high and %s wide, expected multiples of %s', task, image_shape[2], image_shape[3], w.multiple),
                                'image_resize(image, height, width) makes one of another size.')
        when task = 'inpaint' and mask_shape[2:] <> image_shape[2:]
        then sql_diffusion.fail(format('inpaint: mask is %s high and %s wide, expected those of image, %s and %s', mask_shape[2], mask_shape[3], image_shape[2], image_shape[3]),
                                'image_resize(mask, height, width) makes one of another size.')
        when redraw_settings.noise_level is not null and not (task = 'upscale' and w.takes_prompt)
        then sql_diffusion.fail(format('noise_level is %s, but %s does not use it', redraw_settings.noise_level, case when task = 'upscale' then format('model "%s"', model) else task end))
        when task = 'upscale' and w.takes_prompt and not w.noise_level between 0 and least(w.max_noise_level, w.levels - 1)
        then sql_diffusion.fail(format('noise_level is %s, expected from 0 to %s', w.noise_level, least(w.max_noise_level, w.levels - 1)))
        when task = 'upscale' and w.takes_prompt and jsonb_typeof(w.defaults -> 'low_res_scheduler') is distinct from 'object'
        then sql_diffusion.fail(format('model "%s" is unfinished: its defaults have no low_res_scheduler', model), 'Load the model again.', '55000')
        else true
        end;
end;
comment on function sql_diffusion.redraw_settings(text, int[], int[], text, real, real, int) is
  'The settings that image_to_image, inpaint or upscale follow with an image and a mask of these shapes (channels, height, width), with the defaults of the model''s pipeline; both backends read them. '
  'Errors: 22023 for what cannot be, 42704 and 55000 as for plan.';

create function sql_diffusion.check_redraw(task text, image real[], mask real[]) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_task(task);
  select sql_diffusion.check_image(image, task || ': image'),
         case when task = 'inpaint' then sql_diffusion.check_image(mask, 'inpaint: mask')
              when mask is not null then sql_diffusion.fail(format('mask is given, but %s does not use it', task)) end;
  select case
         when exists (select from unnest(image) x where not x between 0 and 1)
         then sql_diffusion.fail(task || ': image has a value that is not from 0 to 1')
         when exists (select from unnest(mask) x where not x between 0 and 1)
         then sql_diffusion.fail('inpaint: mask has a value that is not from 0 to 1')
         else true
         end;
end;
comment on function sql_diffusion.check_redraw(text, real[], real[]) is
  'True for an image (channels, height, width, values 0 to 1), and a mask where the task is inpaint, otherwise an error (22023).';

create function sql_diffusion.check_without_prompt(model text, prompt text, negative_prompt text, guidance_scale real, guidance_rescale real, clip_skip int) returns boolean
language sql stable parallel safe
return sql_diffusion.check_class_label(model, null)
       and (select coalesce(bool_and(sql_diffusion.fail(format('%s is given, but model "%s" takes no prompt', a.name, model),
                                                        case when a.name = 'prompt' then 'Without it the model changes pictures too: prompt => null.' end)), true)
            from (select given.name
                  from (values (1, 'prompt', prompt is not null), (2, 'negative_prompt', negative_prompt is not null), (3, 'guidance_scale', guidance_scale is not null),
                               (4, 'guidance_rescale', guidance_rescale <> 0), (5, 'clip_skip', clip_skip is not null)) given (place, name, is_given)
                  where given.is_given
                  order by given.place
                  limit 1) a);
comment on function sql_diffusion.check_without_prompt(text, text, text, real, real, int) is
  'True where nothing is given that goes with a prompt, otherwise an error (22023): for a model that takes none, nor the number of a class.';

create function sql_diffusion.binary_mask(mask real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  -- Pillow's grey of colours, in 65536ths of grey levels; alpha counts for nothing. The half is white, as in diffusers.
  with size as (
    select array_length(mask, 1) as channels, array_length(mask, 2) * array_length(mask, 3) as pixels
  ),
  plane as materialized (
    select s.channels, s.pixels, case when s.channels > 2 then sql_diffusion.image_levels(mask) end as levels, array(select unnest(mask)) as flat
    from size s
  )
  select sql_diffusion.with_shape(
           (select array_agg(case when p.channels > 2
                                  then (19595 * p.levels[i] + 38470 * p.levels[p.pixels + i] + 7471 * p.levels[2 * p.pixels + i] >= 8355840)::int
                                  else (p.flat[i] >= 0.5)::int end::real order by i)
            from generate_series(1, p.pixels) i),
           array[1, array_length(mask, 2), array_length(mask, 3)])
  from plane p;
end;
comment on function sql_diffusion.binary_mask(real[]) is
  'A mask as inpaint reads an image (channels, height, width, values 0 to 1): 1 where it is white, a grey of a half or more, and is made anew, 0 elsewhere (1, height, width).';

create function sql_diffusion.each_nth(input real[], n int) returns real[]
language sql immutable strict parallel safe
set jit = off
return case when n = 1 then input else sql_diffusion.with_shape(
  (select array_agg(input[c][y][x] order by c, y, x)
   from generate_series(1, array_length(input, 1)) c, generate_series(1, array_length(input, 2), n) y, generate_series(1, array_length(input, 3), n) x),
  array[array_length(input, 1), array_length(input, 2) / n, array_length(input, 3) / n]) end;
comment on function sql_diffusion.each_nth(real[], int) is 'Of an image (channels, height, width) the first pixel of every square of n by n: torch''s interpolate to a size that divides it.';

create function sql_diffusion.encode_picture(picture real[], generator sql_diffusion.generator, model text, settings sql_diffusion.redraw_settings,
    out latent real[], out next sql_diffusion.generator)
language sql stable parallel safe
begin atomic
  select case when (settings).autoencoder is null then picture
              when (settings).variational then sql_diffusion.scaled(sql_diffusion.vae_sample(sql_diffusion.vae_moments(picture, model), noise.sample), (settings).scaling_factor)
              else sql_diffusion.scaled(sql_diffusion.vae_encode(picture, model), (settings).scaling_factor) end,
         coalesce(noise.next, generator)
  from (values (generator)) stream (generator)
       left join lateral (select n.sample, n.next from sql_diffusion.randn(stream.generator, (settings).latent_shape) n where (settings).variational) noise on true;
end;
comment on function sql_diffusion.encode_picture(real[], sql_diffusion.generator, text, sql_diffusion.redraw_settings) is
  'The latent of a picture (values -1 to 1) as the diffusion has it: of a distribution a sample, by fresh noise; of a model of pixels the picture itself.';

create function sql_diffusion.redraw_beginning(image real[], mask real[], seed bigint, model text, settings sql_diffusion.redraw_settings, step sql_diffusion.schedule_step)
  returns sql_diffusion.beginning
language sql stable parallel safe
set jit = off
begin atomic
  with given as materialized (
    select sql_diffusion.with_shape((select array_agg(2::real * e.x - 1::real) from (select unnest(image) as x) e), sql_diffusion.shape(image)) as picture,
           sql_diffusion.binary_mask(mask) as mask,
           sql_diffusion.manual_seed(seed) as generator
  ),
  small as materialized (
    select case when noise.sample is not null
                then sql_diffusion.with_shape((select array_agg(((settings).added_original * e.x + (settings).added_noise * e.noise)::real) from (select unnest(g.picture) as x, unnest(noise.sample) as noise) e), sql_diffusion.shape(image))
                else g.picture end as picture,
           coalesce(noise.next, g.generator) as generator
    from given g
         left join lateral (select n.sample, n.next from sql_diffusion.randn(g.generator, sql_diffusion.shape(image)) n where (settings).added_noise is not null) noise on true
  ),
  original as materialized (
    select encoded.latent, coalesce(encoded.next, s.generator) as generator
    from small s
         left join lateral (select e.latent, e.next from sql_diffusion.encode_picture(s.picture, s.generator, model, settings) e where (settings).encodes_image) encoded on true
  ),
  noise as materialized (
    select drawn.sample, drawn.next as generator
    from original o, sql_diffusion.randn(o.generator, (settings).latent_shape) drawn
  ),
  -- The rest of the picture: grey where it is made anew. Where the U-Net does not see it, diffusers draws for it all the same.
  rest as materialized (
    select encoded.latent, coalesce(encoded.next, drawn.next, n.generator) as generator
    from noise n
         cross join given g
         left join lateral (select e.latent, e.next from sql_diffusion.encode_picture(
           sql_diffusion.with_shape((select array_agg(e.x * (1::real - g.flat[(e.place - 1) % cardinality(g.flat) + 1]) order by e.place)
                                     from unnest(g.picture) with ordinality e (x, place), (select array(select unnest(g.mask)) as flat) g), sql_diffusion.shape(g.picture)),
           n.generator, model, settings) e where (settings).shows_mask) encoded on true
         left join lateral (select d.next from sql_diffusion.randn(n.generator, (settings).latent_shape) d where (settings).keeps_image and (settings).variational) drawn on true
  )
  select row(
           case when (settings).begins_with_noise then sql_diffusion.scaled(n.sample, (step).initial_noise) else sql_diffusion.add_noise_at(o.latent, n.sample, step) end,
           r.generator,
           case when (settings).shows_mask then m.mask || r.latent when (settings).shows_image then s.picture end,
           (settings).scales_shown,
           case when (settings).keeps_image then o.latent end,
           case when (settings).keeps_image then n.sample end,
           case when (settings).keeps_image then m.mask end
         )::sql_diffusion.beginning
  from small s, original o, noise n, rest r,
       (select sql_diffusion.each_nth(g.mask, (settings).height / ((settings).latent_shape)[2]) as mask from given g) m;
end;
comment on function sql_diffusion.redraw_beginning(real[], real[], bigint, text, sql_diffusion.redraw_settings, sql_diffusion.schedule_step) is
  'How the steps begin with an image and a mask (channels, height, width, values 0 to 1), noise being drawn in the order in which diffusers'' pipelines draw it; step is the first of the schedule.';

create function sql_diffusion.redraw_steps(task text, image real[], mask real[], prompt text, seed bigint, model text, strength real default null, noise_level int default null,
    negative_prompt text default null, num_inference_steps int default null, guidance_scale real default null, scheduler text default null, timesteps int[] default null, eta real default null,
    guidance_rescale real default 0, clip_skip int default null)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel safe rows 50
begin atomic
  with
  ready as materialized (
    select case when seed is null then sql_diffusion.fail('seed is null, expected an integer') end as seed_is_given,
           sql_diffusion.check_redraw(task, image, mask) as pictures_are_whole,
           sql_diffusion.check_model(model) as model_is_whole
  ),
  task as materialized (
    select s as settings
    from ready, sql_diffusion.redraw_settings(task, sql_diffusion.shape(image), sql_diffusion.shape(mask), model, strength, guidance_scale, noise_level) s
  ),
  told as materialized (
    select case when (t.settings).takes_prompt
                then sql_diffusion.text_to_image_settings(case when task = 'upscale' then coalesce(prompt, '') else prompt end, model, negative_prompt, (t.settings).guidance_scale, (t.settings).height, (t.settings).width,
                                                          guidance_rescale, clip_skip) end as settings
    from task t
    where (t.settings).takes_prompt
       or sql_diffusion.check_without_prompt(model, prompt, negative_prompt, guidance_scale, guidance_rescale, clip_skip)
  ),
  schedule as materialized (
    select array_agg(s order by s.step) as steps
    from told, task t, sql_diffusion.generation_schedule(model, num_inference_steps, timesteps, scheduler, eta, (t.settings).strength) s
  ),
  prompts as materialized (
    select c.positive, c.negative, (t.settings).guidance_scale as guidance_scale
    from schedule, told t
         left join lateral (select p.positive, p.negative from sql_diffusion.prompt_conditions(coalesce(prompt, ''), model, t.settings) p where (t.settings).encoders is not null offset 0) c on true
  ),
  condition as materialized (
    select case when (t.settings).noise_level is null then p.positive else sql_diffusion.with_label(p.positive, (t.settings).noise_level) end as positive,
           case when (t.settings).noise_level is null or p.negative is null then p.negative else sql_diffusion.with_label(p.negative, (t.settings).noise_level) end as negative,
           p.guidance_scale
    from prompts p, task t
  ),
  begun as materialized (
    select sql_diffusion.redraw_beginning(image, mask, seed, model, t.settings, s.steps[1]) as beginning, s.steps
    from schedule s, task t
  )
  select r.step, r.timestep, r.sample, r.pred_original_sample
  from begun b,
       condition c,
       sql_diffusion.sample_steps(b.beginning, b.steps, model, c.positive, c.negative, c.guidance_scale, guidance_rescale) r;
end;
comment on function sql_diffusion.redraw_steps(text, real[], real[], text, bigint, text, real, int, text, int, real, text, int[], real, real, int) is
  'A picture that begins with a picture as it comes about in pure SQL, one row a pass of the schedule as it is done: the latent that the step leads to and the guess of the finished one (channels, height, width). '
  'task: image_to_image, inpaint or upscale, which explain the arguments.';

create function sql_diffusion.redraw(task text, picture real[], mask real[], prompts text[], seeds bigint[], model text, strength real default null, noise_level int default null,
    negative_prompt text default null, num_inference_steps int default null, guidance_scale real default null, scheduler text default null, timesteps int[] default null, eta real default null,
    guidance_rescale real default 0, clip_skip int default null)
  returns table (prompt text, seed bigint, image real[])
language sql stable parallel safe rows 10
begin atomic
  select sql_diffusion.check_prompts(prompts, seeds);
  select p.prompt, p.seed,
         (select sql_diffusion.finished_image(s.sample, model)
          from sql_diffusion.redraw_steps(task, picture, mask, p.prompt, p.seed, model, strength, noise_level, negative_prompt, num_inference_steps, guidance_scale, scheduler, timesteps, eta, guidance_rescale, clip_skip) s
          order by s.step desc
          limit 1)
  from unnest(prompts, seeds) with ordinality p (prompt, seed, ordinality)
  order by p.ordinality;
end;
comment on function sql_diffusion.redraw(text, real[], real[], text[], bigint[], text, real, int, text, int, real, text, int[], real, real, int) is
  'Pictures that begin with one picture, one row (prompt, seed, image) a prompt, in their order, in pure SQL: what finished_image makes of the last of redraw_steps.';
