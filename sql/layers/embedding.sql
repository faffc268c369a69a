create function sql_diffusion.embedding_tokens(input_ids int[], weight real[], name text) returns real[]
language sql immutable parallel safe
set jit = off
return (
  select array_agg(rows.element)
  from (select array_length(weight, 1) as number offset 0) size,
       lateral (select unnest(case when id >= 0 and id < size.number
                              then weight[id + 1 : id + 1]
                              else array[sql_diffusion.fail(format('%s holds %s, expected from 0 to %s', name, coalesce(id::text, 'null'), size.number - 1))::int]::real[]
                              end) as element
                from (select unnest(input_ids) as id) ids) rows);
comment on function sql_diffusion.embedding_tokens(int[], real[], text) is
  'The rows of a weight, shape (number, features), that the ids name, from 0, one after the other. The name opens the message where there is no such row.';

create function sql_diffusion.embedding(input_ids int[], weight real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select case when cardinality(input_ids) = 0 then sql_diffusion.fail('embedding: input_ids is empty') end,
         sql_diffusion.check_tensor(weight, 'embedding: weight', 'number, features');
  select case when array_ndims(input_ids) > 5 then
           sql_diffusion.fail(format('embedding: input_ids has %s dimensions, expected at most 5', array_ndims(input_ids)))
         end,
         case when exists (select from generate_series(1, array_ndims(input_ids)) dimension where array_lower(input_ids, dimension) <> 1) then
           sql_diffusion.fail(format('embedding: input_ids has the bounds %s, expected subscripts that begin at 1', array_dims(input_ids)))
         end,
         sql_diffusion.check_values(weight, 'embedding: weight');
  select sql_diffusion.with_shape(sql_diffusion.embedding_tokens(input_ids, weight, 'embedding: input_ids'),
                                  (select array_agg(array_length(input_ids, dimension) order by dimension)
                                   from generate_series(1, array_ndims(input_ids)) dimension) || array_length(weight, 2));
end;
comment on function sql_diffusion.embedding(int[], real[]) is
  'The row of the weight, shape (number, features), that each id names, from 0: input_ids (...), output (..., features). torch.nn.functional.embedding.';

create function sql_diffusion.embedding_tokens(input_ids int[], bytes bytea, dtype text, shape int[], name text) returns real[]
language sql stable parallel safe
set jit = off
return (
  -- of a value that is stored out of line, substring reads its part alone
  select sql_diffusion.weight_from_bytes(string_agg(case when id >= 0 and id < shape[1]
                                                    then substring(bytes from 2 * shape[2] * id + 1 for 2 * shape[2])
                                                    else decode(sql_diffusion.fail(format('%s holds %s, expected from 0 to %s', name, coalesce(id::text, 'null'), shape[1] - 1))::text, 'hex')
                                                    end, ''::bytea order by position),
                                         dtype, array[cardinality(input_ids) * shape[2]])
  from unnest(input_ids) with ordinality ids (id, position));
comment on function sql_diffusion.embedding_tokens(int[], bytea, text, int[], text) is
  'The same of a weight of this shape that is stored in 16 bits: its bytes and what they hold (weight_from_bytes).';

create function sql_diffusion.embedding_module(input_ids int[], model text, component text, key text, name text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select sql_diffusion.to_maps(sql_diffusion.transpose(sql_diffusion.fold(module.rows, module.features)),
                                     1, cardinality(input_ids)) as maps
        from (select case when p.key is null
                     then array[sql_diffusion.check_parameter(embedding_module.model, embedding_module.component, embedding_module.key, name)::int]::real[]
                     when p.dtype is null
                     then (select sql_diffusion.embedding_tokens(input_ids, w.weight || '{}'::real[], name || ': input_ids')
                           from sql_diffusion.parameters w
                           where w.model = embedding_module.model and w.component = embedding_module.component and w.key = embedding_module.key)
                     else sql_diffusion.embedding_tokens(input_ids, p.weight_bytes, p.dtype, p.weight_shape, name || ': input_ids')
                     end as rows,
                     p.weight_shape[2] as features
              from (values (1)) one
                   left join sql_diffusion.parameters p
                   on p.model = embedding_module.model and p.component = embedding_module.component and p.key = embedding_module.key
              offset 0) module
        offset 0) done
  offset 0;
end;
comment on function sql_diffusion.embedding_module(int[], text, text, text, text) is
  'embedding with the weight of the module with this key: (tokens) to feature maps of height 1, as wide as there are tokens, with a channel for each feature. The name opens error messages. A set of one '
  'row, so that the planner puts the query in its place.';
