-- Attention of a text to itself, in which a token sees no later one; of a text that grows, the keys and values of the tokens before are kept.

create function sql_diffusion.append_tokens(tokens sql_diffusion.feature_maps, planes real[]) returns sql_diffusion.feature_maps
language sql immutable parallel safe
set jit = off
return case
       when tokens is null
       then row(planes, 1, array_length(planes, 2), null, null, null, null)::sql_diffusion.feature_maps
       else (select row(sql_diffusion.fold(array_agg(c.element order by c.channel, c.place), (tokens).width + array_length(planes, 2)), 1, (tokens).width + array_length(planes, 2),
                        null, null, null, null)::sql_diffusion.feature_maps
             from (select (n - 1) / (tokens).width as channel, (n - 1) % (tokens).width as place, element
                   from unnest((tokens).planes) with ordinality kept (element, n)
                   union all
                   select (n - 1) / array_length(planes, 2), (tokens).width + (n - 1) % array_length(planes, 2), element
                   from unnest(planes) with ordinality added (element, n)) c)
       end;
comment on function sql_diffusion.append_tokens(sql_diffusion.feature_maps, real[]) is
  'Feature maps of tokens (NULL for none), and behind them more, (channels, tokens). What is told of each channel beside its values is left out: no layer that takes these reads it.';

create function sql_diffusion.causal_attention(query real[], key real[], value real[], heads int, scale double precision, name text) returns real[]
language sql immutable parallel safe
set jit = off
return (
  select sql_diffusion.array_cat_agg(sql_diffusion.attention_core(query[(h - 1) * size.features + 1 : h * size.features],
                                                                  key[(h - 1) * size.features + 1 : h * size.features],
                                                                  value[(h - 1) * size.features + 1 : h * size.features], name, mask.mask, false, scale) order by h)
  from (select array_length(query, 1) / heads as features offset 0) size,
       -- (queries, keys): 0 for what a token sees, -infinity for later ones; the last token sees all
       (select array_agg(array_fill(0::real, array[array_length(key, 2) - array_length(query, 2) + q]) || array_fill('-infinity'::real, array[array_length(query, 2) - q]) order by q) as mask
        from generate_series(1, array_length(query, 2)) q
        where array_length(query, 2) > 1
        offset 0) mask,
       generate_series(1, least(heads, array_length(query, 1))) h);
comment on function sql_diffusion.causal_attention(real[], real[], real[], int, double precision, text) is
  'Attention in so many heads, the scores multiplied by scale: query (channels, queries), key and value (channels, keys) to (channels, queries). The queries are of the last tokens, and each sees the keys up to its own. '
  'Vaswani et al. 2017, section 3.2.3. The name opens error messages.';
