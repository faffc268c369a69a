create function sql_diffusion.position_embedding_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 1
return row('', array[((step).settings ->> 'num_embeddings')::int, (step).out_channels], false, null)::sql_diffusion.plan_module;
comment on function sql_diffusion.position_embedding_modules(sql_diffusion.plan_step) is 'The table of the positions.';

create function sql_diffusion.run_position_embedding(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select array(select generate_series(0, (inputs[1]).width - 1)) as ids offset 0) positions,
       sql_diffusion.embedding_module(positions.ids, model, component, (step).key, component) embedded,
       sql_diffusion.add_of_maps(inputs[1], embedded) maps;
end;
comment on function sql_diffusion.run_position_embedding(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Adds to each token the features that the model has learned for its position.';
