create function sql_diffusion.embedding_modules(step sql_diffusion.plan_step) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 1
begin atomic
  select row('', array[((step).settings ->> 'num_embeddings')::int, (step).out_channels], false, null)::sql_diffusion.plan_module;
end;
comment on function sql_diffusion.embedding_modules(sql_diffusion.plan_step) is 'The table of an embedding.';

create function sql_diffusion.run_embedding(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.embedding_module(sql_diffusion.vector_of_maps(inputs[1])::int[], model, component, (step).key, component) maps;
end;
comment on function sql_diffusion.run_embedding(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'The row of the table that each number of the input names, as the features of a token.';
