-- Byte-pair encoding: a word is its bytes at first; then, of all neighbours that the merges know, those of the lowest rank become one
-- token, the leftmost first, until there are none. Sennrich, Haddow, Birch 2016, section 3.2.

create function sql_diffusion.byte_pair_encoding(words bytea[], model text, component text) returns table (word bytea, ids int[])
language sql stable strict parallel safe rows 50
set jit = off
begin atomic
  -- A pair is rank x 2^32 + the token that it becomes, so that the least is the one to merge; 2^63 - 1 is no pair. All words go side by
  -- side, each merging one pair a round, and only the pairs beside it are looked up again. A limit makes each lookup one of the index.
  with recursive tokenizer as (
    select t.class = 'CLIPTokenizer' as ends_words,
           case t.class when 'CLIPTokenizer' then t.unknown end as unknown
    from (select c.config ->> 'tokenizer_class' as class, (c.config ->> 'unk_token_id')::int as unknown
          from (select sql_diffusion.tokenizer_config(byte_pair_encoding.model, byte_pair_encoding.component) as config offset 0) c) t
  ), symbols as (
    select w.word,
           array(select coalesce(s.id, t.unknown)
                 from generate_series(1, length(w.word)) as b (i)
                   left join lateral (select v.id
                                      from sql_diffusion.vocabulary v
                                      where v.model = byte_pair_encoding.model
                                        and v.component = byte_pair_encoding.component
                                        and length(v.token) = 1
                                        and v.token = substring(w.word from b.i for 1)
                                        and v.ends_word = (t.ends_words and b.i = length(w.word))
                                      limit 1) s on true
                 where coalesce(s.id, t.unknown) is not null
                 order by b.i) as ids
    from (select distinct u.word from unnest(byte_pair_encoding.words) as u (word)) w,
      tokenizer t
  ), merged (word, round, ids, pairs) as (
    select s.word, 0, s.ids,
           array(select coalesce(g.pair, 9223372036854775807)
                 from generate_series(1, cardinality(s.ids) - 1) as p (i)
                   left join lateral (select m.rank::bigint << 32 | m.merged as pair
                                      from sql_diffusion.merges m
                                      where m.model = byte_pair_encoding.model
                                        and m.component = byte_pair_encoding.component
                                        and m.first = s.ids[p.i]
                                        and m.second = s.ids[p.i + 1]
                                      limit 1) g on true
                 order by p.i)
    from symbols s
    union all
    select w.word, w.round + 1, n.ids,
           w.pairs[:l.i - 2]
             || array(select coalesce(g.pair, 9223372036854775807)
                      from generate_series(greatest(l.i - 1, 1), least(l.i, cardinality(n.ids) - 1)) as p (i)
                        left join lateral (select m.rank::bigint << 32 | m.merged as pair
                                           from sql_diffusion.merges m
                                           where m.model = byte_pair_encoding.model
                                             and m.component = byte_pair_encoding.component
                                             and m.first = n.ids[p.i]
                                             and m.second = n.ids[p.i + 1]
                                           limit 1) g on true
                      order by p.i)
             || w.pairs[l.i + 2:]
    from merged w,
      lateral (select p.pair, p.i::int as i
               from unnest(w.pairs) with ordinality as p (pair, i)
               where p.pair < 9223372036854775807
               order by p.pair, p.i
               limit 1) l,
      lateral (select w.ids[:l.i - 1] || (l.pair & 4294967295)::int || w.ids[l.i + 2:] as ids offset 0) n
  )
  select distinct on (m.word) m.word, m.ids
  from merged m
  order by m.word, m.round desc;
end;
comment on function sql_diffusion.byte_pair_encoding(bytea[], text, text) is
  'The tokens of words, one row for each that differs. A byte that the vocabulary has no token of is unk_token for CLIPTokenizer and left out by GPT2Tokenizer.';
