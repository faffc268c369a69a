-- From a text to the numbers of its tokens, and back.

create function sql_diffusion.warn_truncated(length int, rest bytea) returns boolean
language plpgsql volatile parallel safe
set search_path to pg_catalog, pg_temp
as $$
begin
  raise notice 'tokenize: the text has more than % tokens: it was cut before "%"', length, convert_from(rest, 'UTF8');
  return true;
exception
  when untranslatable_character then  -- the text in lower case, in an encoding that has the capitals alone
    raise notice 'tokenize: the text has more than % tokens: it was cut', length;
    return true;
end
$$;
comment on function sql_diffusion.warn_truncated(int, bytea) is
  'Tells, by a notice, that a text was cut, and what follows there: the next words in UTF-8. Always true.';

create function sql_diffusion.tokenizer_words(text text, config jsonb) returns table (place int, word bytea, id int)
language sql immutable strict parallel safe rows 50
begin atomic
  with added as (
    select convert_to(a.token ->> 'content', 'UTF8') as content, a.id::int as id, (a.token ->> 'normalized')::boolean as normalized
    from jsonb_each(tokenizer_words.config -> 'added_tokens_decoder') as a (id, token)
  ), settings as (
    select tokenizer_words.config ->> 'tokenizer_class' as class,
           (tokenizer_words.config ->> 'add_prefix_space')::boolean and tokenizer_words.config ->> 'tokenizer_class' = 'GPT2Tokenizer' as prefix,
           array(select a.content from added a where not a.normalized order by a.id) as contents,
           array(select a.id from added a where not a.normalized order by a.id) as ids,
           array(select case tokenizer_words.config ->> 'tokenizer_class'
                          when 'CLIPTokenizer' then sql_diffusion.utf8(sql_diffusion.clip_normalize(array(select c.code from sql_diffusion.utf8_characters(a.content) c order by c.place)))
                          else a.content
                        end
                 from added a where a.normalized order by a.id) as normalized_contents,
           array(select a.id from added a where a.normalized order by a.id) as normalized_ids
    offset 0
  ), piece as (
    -- the tokens that are looked for in the text as it is; what is between them is normalized; then the others
    select r.place, n.place as part, n.id as normalized_id, r.id as raw_id,
           case when s.prefix and n.piece <> '' and substring(n.piece for 1) <> ' ' then ' ' || n.piece else n.piece end as piece, s.class
    from settings s,
      lateral sql_diffusion.split_added_tokens(convert_to(tokenizer_words.text, 'UTF8'), s.contents, s.ids) r,
      lateral sql_diffusion.split_added_tokens(
        case s.class
          when 'CLIPTokenizer' then sql_diffusion.utf8(sql_diffusion.clip_normalize(array(select c.code from sql_diffusion.utf8_characters(r.piece) c order by c.place)))
          else r.piece
        end, s.normalized_contents, s.normalized_ids) n
  ), word as (
    select p.place, p.part, w.place as n, w.word, null::int as id
    from piece p,
      lateral sql_diffusion.split_words(p.piece, p.class) w
    where p.piece <> ''
    union all
    -- an added token ends its piece; the raw one comes behind the last of the pieces that its own was split into
    select p.place, p.part, 2147483646, null, p.normalized_id
    from piece p
    where p.normalized_id is not null
    union all
    select p.place, p.part, 2147483647, null, p.raw_id
    from piece p
    where p.raw_id is not null
      and p.normalized_id is null
  )
  select (row_number() over (order by w.place, w.part, w.n))::int as place, coalesce(w.word, a.content) as word, w.id
  from word w
    left join added a on a.id = w.id;
end;
comment on function sql_diffusion.tokenizer_words(text, jsonb) is
  'The words of a text, place counted from 1, in UTF-8, as the tokenizer of these settings splits it; id is that of an added token, which is no word.';

create function sql_diffusion.tokenize(
  text text, model text, component text default 'tokenizer', padding boolean default true, truncation boolean default true
) returns int[]
language sql stable parallel safe
set jit = off
begin atomic
  select case when tokenize.text is null then sql_diffusion.fail('tokenize: text is null, expected a text') end;
  select case
           when tokenize.padding is null or tokenize.truncation is null
           then sql_diffusion.fail(format('tokenize: %s is null, expected true or false', case when tokenize.padding is null then 'padding' else 'truncation' end))
         end;
  with config as (
    select t.config,
           t.config ->> 'tokenizer_class' = 'CLIPTokenizer' as framed,                       -- a token before, a token behind
           (t.config ->> 'model_max_length')::int as length
    from (select sql_diffusion.tokenizer_config(tokenize.model, tokenize.component) as config offset 0) t
  ), word as materialized (
    select w.place, w.word, w.id
    from config c,
      lateral sql_diffusion.tokenizer_words(tokenize.text, c.config) w
  ), encoded as materialized (
    -- no word is without a token, so only as many are encoded as may be kept, and one more
    select e.word, e.ids
    from config c,
      lateral sql_diffusion.byte_pair_encoding(
        array(select w.word
              from word w
              where w.id is null
                and (not (c.framed and tokenize.truncation) or c.length is null or w.place < c.length)),
        tokenize.model, tokenize.component) e
  ), token as (
    select w.place, t.part, t.id, row_number() over (order by w.place, t.part) as n
    from word w
      left join encoded e on e.word = w.word and w.id is null,
      lateral unnest(case when w.id is null then e.ids else array[w.id] end) with ordinality as t (id, part)
  ), result as (
    select c.config, c.framed, c.length,
           coalesce((select array_agg(t.id order by t.n) from token t), '{}') as ids
    from config c
  ), kept as (
    select r.config, r.framed, r.length,
           r.framed and tokenize.truncation and cardinality(r.ids) > r.length - 2 as truncated,
           case when r.framed
             then (r.config ->> 'bos_token_id')::int || case when tokenize.truncation then r.ids[:coalesce(r.length - 2, cardinality(r.ids))] else r.ids end || (r.config ->> 'eos_token_id')::int
             else r.ids
           end as ids
    from result r
  )
  select case
           when not k.truncated
             or sql_diffusion.warn_truncated(k.length,
                  (select string_agg(w.word, ' ' order by w.place)
                   from (select w.place, w.word
                         from word w
                         where w.place >= (select t.place from token t where t.n = k.length - 1)
                         order by w.place
                         limit 10) w))
           then k.ids || case
                  when k.framed and tokenize.padding and k.length > cardinality(k.ids) and k.config ->> 'pad_token_id' is not null
                  then array_fill((k.config ->> 'pad_token_id')::int, array[k.length - cardinality(k.ids)])
                  else '{}'
                end
         end
  from kept k;
end;
comment on function sql_diffusion.tokenize(text, text, text, boolean, boolean) is
  'The ids of the tokens of a text. CLIPTokenizer: the start token, those of the text, the end token, as many as model_max_length (77) in all: a longer text is cut, which a notice tells, '
  'and a shorter one is filled up with the pad token; padding => false leaves them out, truncation => false leaves all in. GPT2Tokenizer: the tokens of the text and nothing else. '
  'It is what the tokenizers of that name in transformers give for the same files, in any encoding and locale of the database. '
  'Radford et al.: Learning transferable visual models from natural language supervision, 2021; Language models are unsupervised multitask learners, 2019. '
  'Errors: 22023 for a NULL text, 42704 for an unknown model, 55000 for a model without that tokenizer.';

create function sql_diffusion.detokenize_bytes(
  ids int[], model text, component text default 'tokenizer', skip_special_tokens boolean default false
) returns bytea
language sql stable parallel safe
begin atomic
  select case
           when detokenize_bytes.ids is null then sql_diffusion.fail('detokenize: ids is null, expected an array of ids')
           when array_ndims(detokenize_bytes.ids) > 1
             then sql_diffusion.fail(format('detokenize: ids has %s dimensions, expected 1', array_ndims(detokenize_bytes.ids)))
           when detokenize_bytes.skip_special_tokens is null
             then sql_diffusion.fail('detokenize: skip_special_tokens is null, expected true or false')
         end;
  with config as materialized (
    select t.config -> 'added_tokens_decoder' as added
    from (select sql_diffusion.tokenizer_config(detokenize_bytes.model, detokenize_bytes.component) as config offset 0) t
  ), token as materialized (
    select i.place, v.token, v.ends_word,
           case
             when v.id is null
             then sql_diffusion.fail(format('detokenize: ids has %s at place %s, expected the id of a token of tokenizer "%s" of model "%s"',
               coalesce(i.id::text, 'null'), i.place, detokenize_bytes.component, detokenize_bytes.model))
             else detokenize_bytes.skip_special_tokens and coalesce((c.added -> i.id::text -> 'special')::boolean, false)
           end as left_out
    from config c,
      unnest(detokenize_bytes.ids) with ordinality as i (id, place)
      left join lateral (select v.id, v.token, v.ends_word
                         from sql_diffusion.vocabulary v
                         where v.model = detokenize_bytes.model
                           and v.component = detokenize_bytes.component
                           and v.id = i.id
                         limit 1) v on true
  )
  select coalesce(string_agg(case when t.ends_word then t.token || ' '::bytea else t.token end, '' order by t.place) filter (where not t.left_out), '')
  from token t;
end;
comment on function sql_diffusion.detokenize_bytes(int[], text, text, boolean) is
  'The bytes, in UTF-8, that tokens stand for, a space behind each that ends a word; skip_special_tokens: without those of start, end and padding. '
  'Errors: 22023 for ids that are NULL or not in the vocabulary, 42704 for an unknown model, 55000 for a model without that tokenizer.';

create function sql_diffusion.utf8_lossy(bytes bytea) returns bytea
language sql immutable strict parallel safe
begin atomic
  -- In hexadecimal: a character as it is; else as much as could begin one, or a byte (Unicode Standard, table 3-7 and section 3.9)
  select coalesce(decode(string_agg(
    case when m.hex[1] ~ '^(?:(?!00)[0-7].|(?:c[2-9a-f]|d.)..|e.....|f.......)$' then m.hex[1] else 'efbfbd' end, '' order by m.place), 'hex'), '')
  from regexp_matches(encode(utf8_lossy.bytes, 'hex') collate "C",
    '(?:c[2-9a-f]|d.)[89ab].|(?:e0[ab].|(?:e[1-9a-cef])[89ab].|ed[89].)(?:[89ab].)?|(?:f0[9ab].|f[1-3][89ab].|f48.)(?:[89ab].(?:[89ab].)?)?|..', 'g')
    with ordinality as m (hex, place);
end;
comment on function sql_diffusion.utf8_lossy(bytea) is 'Bytes as valid UTF-8: U+FFFD stands for each part of a character without the rest, and for a zero byte, which no text can hold.';

create function sql_diffusion.detokenize(
  ids int[], model text, component text default 'tokenizer', skip_special_tokens boolean default false
) returns text
language sql stable parallel safe
begin atomic
  select case
           when position(E'\\x00'::bytea in d.bytes) > 0
           then sql_diffusion.fail('detokenize: the tokens have a zero byte, which no text can hold',
                                   'sql_diffusion.detokenize_bytes gives them as bytea.')::text
           when d.class = 'CLIPTokenizer'
           then convert_from(decode(regexp_replace(encode(sql_diffusion.utf8_lossy(d.bytes), 'hex') collate "C",
                  -- what Python strips, in hexadecimal, for not every encoding has it all
                  replace('^space+|space+$', 'space', '(?:09|0[a-d]|1[c-f]|20|c285|c2a0|e19a80|e2808[0-9a]|e280a[89f]|e2819f|e38080)'),
                  '', 'g'), 'hex'), 'UTF8')
           else convert_from(sql_diffusion.utf8_lossy(d.bytes), 'UTF8')
         end
  from (select sql_diffusion.detokenize_bytes(detokenize.ids, detokenize.model, detokenize.component, detokenize.skip_special_tokens) as bytes,
               sql_diffusion.tokenizer_config(detokenize.model, detokenize.component) ->> 'tokenizer_class' as class
        offset 0) d;
end;
comment on function sql_diffusion.detokenize(int[], text, text, boolean) is
  'The text that tokens stand for, as decode of transformers'' tokenizers gives it: U+FFFD where they end inside a character, and for CLIPTokenizer without white space at the ends. '
  'detokenize_bytes has the errors and, for tokens that are no whole characters, the bytes.';
