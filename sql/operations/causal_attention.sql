create function sql_diffusion.run_causal_attention(step sql_diffusion.plan_step, inputs sql_diffusion.feature_maps[], model text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select sql_diffusion.to_maps(
                 sql_diffusion.causal_attention((inputs[1]).planes[1 : (step).out_channels][:],
                                                (inputs[2]).planes[1 : (step).out_channels][:],
                                                (inputs[2]).planes[(step).out_channels + 1 : 2 * (step).out_channels][:],
                                                ((step).settings ->> 'heads')::int, ((step).settings ->> 'scale')::double precision, format('%s: %s', component, (step).key)),
                 1, (inputs[1]).width) as maps
        offset 0) done;
end;
comment on function sql_diffusion.run_causal_attention(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Attention of the tokens of the first input, whose first channels are queries, to themselves and those before them: the second input holds the keys of all and, in as many channels more, their values.';
