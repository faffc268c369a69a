-- A picture from a prompt: the text is read once, then the loop of the pipelines makes a latent, and the autoencoder the picture of it.
-- High-Resolution Image Synthesis with Latent Diffusion Models (Rombach et al., arXiv 2112.10752); diffusers' StableDiffusionPipeline,
-- StableDiffusionXLPipeline and LatentConsistencyModelPipeline.

create function sql_diffusion.default_text_model() returns text
language sql stable parallel safe
return coalesce(nullif(current_setting('sql_diffusion.model', true), ''), sql_diffusion.bundled_model(true));
comment on function sql_diffusion.default_text_model() is
  'The model that text_to_image uses where none is named: the setting sql_diffusion.model, else the bundled one that takes a prompt.';

create function sql_diffusion.default_model(prompt text) returns text
language sql stable parallel safe
return case when prompt is null then sql_diffusion.default_model() else sql_diffusion.default_text_model() end;
comment on function sql_diffusion.default_model(text) is 'The model of a call that may have a prompt and names none: default_text_model where there is one, default_model where prompt is NULL.';

create type sql_diffusion.text_to_image_settings as (
  encoders         text[],
  latent_shape     int[],
  guidance_scale   real,
  guided           boolean,
  negative_prompt  text,
  layers_skipped   int,
  final_norm       boolean,
  timestep_cond    real[],
  time_ids         real[]
);
comment on type sql_diffusion.text_to_image_settings is
  'What a call of text_to_image comes to: the text encoders that read the prompt, the shape of the latent (channels, height, width), the guidance and whether a pass without the text is made for it, the text of that pass (NULL for zeros '
  'instead of a text), how many of each encoder''s last layers are left out for the prompt and whether its final norm follows, and what else the U-Net is told: the guidance as a wave (timestep_cond) and the picture''s sizes (time_ids).';

create function sql_diffusion.text_to_image_settings(prompt text, model text, negative_prompt text, guidance_scale real, height int, width int, guidance_rescale real, clip_skip int)
  returns sql_diffusion.text_to_image_settings
language sql stable parallel safe
begin atomic
  select sql_diffusion.component_config(model),
         case
         when not exists (select from sql_diffusion.plan(model) p where p.operation = 'input' and p.key = 'encoder_hidden_states')
         then sql_diffusion.fail(format('model "%s" takes no prompt', model), 'Its pictures: ddpm_generate(seed, model => ''...'').')
         when prompt is null
         then sql_diffusion.fail('prompt is null, expected a text')
         when not exists (select from sql_diffusion.components c where c.model = text_to_image_settings.model and starts_with(c.component, 'text_encoder'))
         then sql_diffusion.fail(format('model "%s" is unfinished: component text_encoder is missing', model), 'Load the model again.', '55000')
         when guidance_scale is not null and not (guidance_scale >= 0 and guidance_scale < 'infinity')
         then sql_diffusion.fail(format('guidance_scale is %s, expected a finite number of at least 0', guidance_scale))
         when guidance_rescale is null or not (guidance_rescale between 0 and 1)
         then sql_diffusion.fail(format('guidance_rescale is %s, expected from 0 to 1', coalesce(guidance_rescale::text, 'null')))
         end;
  with network as materialized (
    select sql_diffusion.network_config(sql_diffusion.component_config(model)) as config,
           (select array_agg(p) from sql_diffusion.plan(model) p) as steps,
           sql_diffusion.autoencoder(model, 'text_to_image') as autoencoder
  ),
  size as materialized (
    select n.config,
           1 << sql_diffusion.deepest_level(n.steps) as factor,
           (select 1 << p.level from sql_diffusion.plan(model, n.autoencoder) p where p.operation = 'input' and p.key = 'latent') as scale,
           sql_diffusion.sample_shape(n.config) as shape,
           exists (select from unnest(n.steps) p where p.operation = 'input' and p.key = 'text_embeds') as has_sizes
    from network n
  ),
  picture as materialized (
    select s.config, s.factor, s.scale, s.shape, s.has_sizes,
           coalesce(text_to_image_settings.height, s.shape[2] * s.scale) as height,
           coalesce(text_to_image_settings.width, s.shape[3] * s.scale) as width
    from size s
  ),
  encoder as (
    select c.component,
           (sql_diffusion.network_config(c.config) ->> 'num_hidden_layers')::int as layers
    from sql_diffusion.components c
    where c.model = text_to_image_settings.model
      and starts_with(c.component, 'text_encoder')
  ),
  chosen as (
    select m.defaults,
           coalesce(text_to_image_settings.guidance_scale, (m.defaults ->> 'guidance_scale')::real,
                    case when m.pipeline like 'LatentConsistency%' then 8.5 when p.has_sizes then 5 else 7.5 end) as guidance_scale,
           (p.config ->> 'time_cond_proj_dim')::int as wave_size
    from sql_diffusion.models m, picture p
    where m.name = text_to_image_settings.model
  )
  select case
         when p.height < 1 or p.height % (p.factor * p.scale) <> 0
         then row(null, array[sql_diffusion.fail(format('height is %s, expected a positive multiple of %s', p.height, p.factor * p.scale))::int], null, null, null, null, null, null, null)::sql_diffusion.text_to_image_settings
         when p.width < 1 or p.width % (p.factor * p.scale) <> 0
         then row(null, array[sql_diffusion.fail(format('width is %s, expected a positive multiple of %s', p.width, p.factor * p.scale))::int], null, null, null, null, null, null, null)::sql_diffusion.text_to_image_settings
         when clip_skip is not null and clip_skip not between 1 and e.fewest - 1
         then row(null, array[sql_diffusion.fail(format('clip_skip is %s, expected from 1 to %s', clip_skip, e.fewest - 1))::int], null, null, null, null, null, null, null)::sql_diffusion.text_to_image_settings
         else row(
                e.components,
                -- of what the U-Net takes, its own output's channels are the latent
                array[(p.config ->> 'out_channels')::int, p.height / p.scale, p.width / p.scale],
                c.guidance_scale,
                c.guidance_scale > 1 and c.wave_size is null,
                coalesce(text_to_image_settings.negative_prompt, case when p.has_sizes and coalesce((c.defaults ->> 'force_zeros_for_empty_prompt')::boolean, true) then null else '' end),
                -- The penultimate layer where the U-Net is told sizes, too (SDXL), else the last
                case when p.has_sizes then 1 else 0 end + coalesce(clip_skip, 0),
                not p.has_sizes,
                case when c.wave_size is not null then sql_diffusion.timestep_embedding((c.guidance_scale - 1::real)::real * 1000::real, c.wave_size) end,
                case when p.has_sizes then array[p.height, p.width, 0, 0, p.height, p.width]::real[] end
              )::sql_diffusion.text_to_image_settings
         end
  from picture p,
       chosen c,
       (select array_agg(e.component order by e.component collate "C") as components, min(e.layers) as fewest from encoder e) e;
end;
comment on function sql_diffusion.text_to_image_settings(text, text, text, real, int, int, real, int) is
  'The settings that text_to_image follows with these arguments, with the defaults of the model''s pipeline; both backends read them. Errors: 22023 for an argument that cannot be, 42704 and 55000 as for plan.';

create type sql_diffusion.prompt_maps as (
  hidden  sql_diffusion.feature_maps,
  pooled  sql_diffusion.feature_maps
);
comment on type sql_diffusion.prompt_maps is 'A prompt as a U-Net takes it: the hidden states of its tokens, and the one vector for all of it, where there is one.';

create function sql_diffusion.encode_prompt(prompt text, model text, settings sql_diffusion.text_to_image_settings, skipped int) returns sql_diffusion.prompt_maps
language sql stable parallel safe
set jit = off
begin atomic
  with encoder as (
    select e.component, e.ordinality,
           (sql_diffusion.network_config(sql_diffusion.component_config(model, e.component)) ->> 'num_hidden_layers')::int as layers,
           (sql_diffusion.network_config(sql_diffusion.component_config(model, e.component)) ->> 'layer_norm_eps')::double precision as eps,
           sql_diffusion.tokenize(prompt, model, replace(e.component, 'text_encoder', 'tokenizer')) as input_ids
    from unnest((settings).encoders) with ordinality as e (component, ordinality)
  ),
  output as materialized (
    select e.ordinality, e.component, e.eps, r.key, r.hidden
    from encoder e,
         sql_diffusion.run_network(array[row('input_ids', e.input_ids::real[])]::sql_diffusion.network_input[], model, e.component, 'text_encoder') r
    where r.operation = 'output'
      and r.key in (case when skipped = 0 and (settings).final_norm then 'last_hidden_state' else format('hidden_states.%s', e.layers - skipped) end, 'text_embeds')
  ),
  hidden as (
    select o.ordinality,
           case when skipped > 0 and (settings).final_norm
                then (select row(n.planes, n.height, n.width, n.mean, n.variance, n.low, n.high)::sql_diffusion.feature_maps
                      from sql_diffusion.layer_norm_module(o.hidden, model, o.component, 'text_model.final_layer_norm', o.eps, 'text_encoder') n)
                else o.hidden end as maps
    from output o
    where o.key <> 'text_embeds'
  )
  select row(
           case when cardinality((settings).encoders) = 1 then (select h.maps from hidden h)
                else (select sql_diffusion.join_maps(one.maps, two.maps) from hidden one, hidden two where one.ordinality = 1 and two.ordinality = 2) end,
           (select o.hidden from output o where o.key = 'text_embeds' order by o.ordinality desc limit 1)
         )::sql_diffusion.prompt_maps;
end;
comment on function sql_diffusion.encode_prompt(text, text, sql_diffusion.text_to_image_settings, int) is
  'What a model''s text encoders make of a prompt, without so many of their last layers: the features of one encoder after those of the other.';

create function sql_diffusion.prompt_condition(maps sql_diffusion.prompt_maps, settings sql_diffusion.text_to_image_settings) returns sql_diffusion.condition
language sql immutable parallel safe
return row(
  array['encoder_hidden_states'] || case when (settings).time_ids is not null then array['text_embeds', 'time_ids'] else '{}' end
                                 || case when (settings).timestep_cond is not null then array['timestep_cond'] else '{}' end,
  array[(maps).hidden] || case when (settings).time_ids is not null then array[(maps).pooled, sql_diffusion.vector_to_maps((settings).time_ids)] else '{}'::sql_diffusion.feature_maps[] end
                       || case when (settings).timestep_cond is not null then array[sql_diffusion.vector_to_maps((settings).timestep_cond)] else '{}'::sql_diffusion.feature_maps[] end
)::sql_diffusion.condition;
comment on function sql_diffusion.prompt_condition(sql_diffusion.prompt_maps, sql_diffusion.text_to_image_settings) is
  'What the U-Net is told of an encoded prompt, and with it of the picture''s sizes and the guidance, where it takes these.';

create function sql_diffusion.zeros_of_maps(maps sql_diffusion.feature_maps) returns sql_diffusion.feature_maps
language sql immutable strict parallel safe
return sql_diffusion.to_maps(array_fill(0::real, array[array_length((maps).planes, 1), (maps).height * (maps).width]), (maps).height, (maps).width);
comment on function sql_diffusion.zeros_of_maps(sql_diffusion.feature_maps) is 'Feature maps of this shape that are 0.';

create function sql_diffusion.prompt_conditions(prompt text, model text, settings sql_diffusion.text_to_image_settings, out positive sql_diffusion.condition, out negative sql_diffusion.condition)
language sql stable parallel safe
begin atomic
  with told as materialized (
    select sql_diffusion.encode_prompt(prompt, model, settings, (settings).layers_skipped) as maps
  )
  select sql_diffusion.prompt_condition(t.maps, settings),
         case when (settings).guided
              then sql_diffusion.prompt_condition(case when (settings).negative_prompt is null
                                                       then row(sql_diffusion.zeros_of_maps((t.maps).hidden), sql_diffusion.zeros_of_maps((t.maps).pooled))::sql_diffusion.prompt_maps
                                                       -- which clip_skip is not for, in diffusers neither
                                                       else sql_diffusion.encode_prompt((settings).negative_prompt, model, settings, case when (settings).final_norm then 0 else 1 end) end, settings)
         end
  from told t;
end;
comment on function sql_diffusion.prompt_conditions(text, text, sql_diffusion.text_to_image_settings) is
  'What the U-Net is told of a prompt, and where it is guided what of the negative one, which is NULL otherwise.';

create function sql_diffusion.text_to_image_steps(prompt text, seed bigint, model text, negative_prompt text default null, num_inference_steps int default null, guidance_scale real default null,
    height int default null, width int default null, scheduler text default null, timesteps int[] default null, eta real default null, guidance_rescale real default 0, clip_skip int default null)
  returns table (step int, timestep double precision, sample real[], pred_original_sample real[])
language sql stable parallel safe rows 50
begin atomic
  with
  ready as materialized (
    select case when seed is null then sql_diffusion.fail('seed is null, expected an integer') end as seed_is_given,
           sql_diffusion.check_model(model) as model_is_whole
  ),
  chosen as materialized (
    select s as settings
    from ready, sql_diffusion.text_to_image_settings(prompt, model, negative_prompt, guidance_scale, height, width, guidance_rescale, clip_skip) s
    where sql_diffusion.check_begins_with_noise(model)
  ),
  schedule as materialized (
    select array_agg(s order by s.step) as steps
    from chosen, sql_diffusion.generation_schedule(model, num_inference_steps, timesteps, scheduler, eta) s
  ),
  condition as materialized (
    select p.positive, p.negative, (c.settings).guidance_scale as guidance_scale
    from schedule, chosen c, sql_diffusion.prompt_conditions(prompt, model, c.settings) p
  ),
  begun as materialized (
    select sql_diffusion.begin_with_noise(seed, (c.settings).latent_shape, s.steps[1]) as beginning, s.steps
    from schedule s, chosen c
  )
  select r.step, r.timestep, r.sample, r.pred_original_sample
  from begun b,
       condition c,
       sql_diffusion.sample_steps(b.beginning, b.steps, model, c.positive, c.negative, c.guidance_scale, guidance_rescale) r;
end;
comment on function sql_diffusion.text_to_image_steps(text, bigint, text, text, int, real, int, int, text, int[], real, real, int) is
  'A prompt''s picture as it comes about in pure SQL, one row a pass of the schedule as it is done: the latent that the step leads to and the guess of the finished one (channels, height, width).';

create function sql_diffusion.text_to_image(prompt text, seed bigint, model text, negative_prompt text default null, num_inference_steps int default null, guidance_scale real default null,
    height int default null, width int default null, scheduler text default null, timesteps int[] default null, eta real default null, guidance_rescale real default 0, clip_skip int default null)
  returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.finished_image(s.sample, model)
  from sql_diffusion.text_to_image_steps(prompt, seed, model, negative_prompt, num_inference_steps, guidance_scale, height, width, scheduler, timesteps, eta, guidance_rescale, clip_skip) s
  order by s.step desc
  limit 1;
end;
comment on function sql_diffusion.text_to_image(text, bigint, text, text, int, real, int, int, text, int[], real, real, int) is
  'A picture (channels, height, width, values 0 to 1) from a prompt in pure SQL: what the autoencoder makes of the last of text_to_image_steps.';

create function sql_diffusion.check_prompts(prompts text[], seeds bigint[]) returns boolean
language sql immutable parallel safe
return case
       when prompts is null or seeds is null
       then sql_diffusion.fail(format('%s is null, expected an array', case when prompts is null then 'prompts' else 'seeds' end))
       when cardinality(prompts) <> cardinality(seeds)
       then sql_diffusion.fail(format('prompts has %s elements and seeds %s, expected as many of one as of the other', cardinality(prompts), cardinality(seeds)))
       when (select bool_or(p.prompt is null) and not bool_and(p.prompt is null) from unnest(prompts) p (prompt))
       then sql_diffusion.fail('prompt is null, expected a text')
       else sql_diffusion.check_seeds(seeds)
       end;
comment on function sql_diffusion.check_prompts(text[], bigint[]) is 'True where there are as many prompts as seeds, and none of either is null (of the prompts all may be: the model says whether it wants one), otherwise an error (22023): before the first picture is made.';

create function sql_diffusion.text_to_image(prompts text[], seeds bigint[], model text, negative_prompt text default null, num_inference_steps int default null, guidance_scale real default null,
    height int default null, width int default null, scheduler text default null, timesteps int[] default null, eta real default null, guidance_rescale real default 0, clip_skip int default null)
  returns table (prompt text, seed bigint, image real[])
language sql stable parallel safe rows 10
begin atomic
  select sql_diffusion.check_prompts(prompts, seeds);
  select p.prompt, p.seed, sql_diffusion.text_to_image(p.prompt, p.seed, model, negative_prompt, num_inference_steps, guidance_scale, height, width, scheduler, timesteps, eta, guidance_rescale, clip_skip)
  from unnest(prompts, seeds) with ordinality p (prompt, seed, ordinality)
  order by p.ordinality;
end;
comment on function sql_diffusion.text_to_image(text[], bigint[], text, text, int, real, int, int, text, int[], real, real, int) is
  'One row (prompt, seed, image) a prompt, in their order, each picture the one made alone.';

create function sql_diffusion.latent_preview(latent real[]) returns real[]
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(latent, 'latent_preview: latent', 'channels, height, width'),
         sql_diffusion.check_values(latent, 'latent_preview: latent');
  -- Red, green and blue of the four channels of Stable Diffusion's latents, a linear fit; of other latents the first three channels, spread over the range of a picture.
  with factor (channel, red, green, blue) as (
    values (1, 0.3512, 0.2297, 0.3227), (2, 0.3250, 0.4974, 0.2350), (3, -0.2829, 0.1762, 0.2721), (4, -0.2120, -0.2616, -0.7177)
  ),
  size as (
    select array_length(latent, 1) as channels, array_length(latent, 2) * array_length(latent, 3) as pixels
  ),
  element as (
    select (e.place - 1) / s.pixels + 1 as channel, (e.place - 1) % s.pixels as pixel, e.x
    from size s, unnest(latent) with ordinality e (x, place)
  ),
  color as (
    select 1 as color, e.pixel, sum(e.x * f.red) / 2 + 0.5 as value from element e join factor f on f.channel = e.channel, size s where s.channels = 4 group by e.pixel
    union all
    select 2, e.pixel, sum(e.x * f.green) / 2 + 0.5 from element e join factor f on f.channel = e.channel, size s where s.channels = 4 group by e.pixel
    union all
    select 3, e.pixel, sum(e.x * f.blue) / 2 + 0.5 from element e join factor f on f.channel = e.channel, size s where s.channels = 4 group by e.pixel
    union all
    select c, e.pixel, coalesce((e.x - min(e.x) over (partition by c)) / nullif(max(e.x) over (partition by c) - min(e.x) over (partition by c), 0), 0.5)
    from size s, generate_series(1, 3) c, element e where s.channels <> 4 and e.channel = least(c, s.channels)
  )
  select sql_diffusion.with_shape(array_agg(greatest(least(c.value, 1), 0)::real order by c.color, c.pixel), array[3, array_length(latent, 2), array_length(latent, 3)])
  from color c;
end;
comment on function sql_diffusion.latent_preview(real[]) is
  'A cheap look at a latent (channels, height, width), without its autoencoder: an image (3, height, width, values 0 to 1), a pixel for each of the latent. For image_ansi and image_png of rows of text_to_image_steps.';
