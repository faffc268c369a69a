create function sql_diffusion.run_select_token(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select sql_diffusion.vector_of_maps(inputs[2]) as ids offset 0) given,
       lateral (select case when (step).settings ? 'last'
                            then (inputs[1]).width
                            when (step).settings ? 'token_id'
                            then coalesce(array_position(given.ids, ((step).settings ->> 'token_id')::real), 1)
                            else array_position(given.ids, (select max(id) from unnest(given.ids) id)) end as position offset 0) chosen,
       lateral (select sql_diffusion.vector_to_maps(array(select element from (select unnest((inputs[1]).planes[:][chosen.position : chosen.position]) as element) elements)) as maps offset 0) done,
       lateral (select (done.maps).*) maps;
end;
comment on function sql_diffusion.run_select_token(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'The features of one token of the first input: of the first whose id, in the second input, is token_id (the first of all where none is), or, without that setting, whose id is greatest; with the setting last, of the last one.';
