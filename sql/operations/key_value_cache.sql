create function sql_diffusion.run_key_value_cache(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select sql_diffusion.append_tokens(inputs[2], (inputs[1]).planes[(step).in_channels - (step).out_channels + 1 : (step).in_channels][:]) as maps offset 0) done;
end;
comment on function sql_diffusion.run_key_value_cache(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'The keys and values of the tokens before, the second input (none in the first pass), and behind them those of these tokens: the last channels of the first input, which holds queries, keys and values.';
