-- A text falls into words, and a word never has a token in common with another.

create function sql_diffusion.split_added_tokens(bytes bytea, contents bytea[], ids int[]) returns table (place int, piece bytea, id int)
language sql immutable strict parallel safe rows 2
begin atomic
  -- From the left: of the tokens that begin first the longest is cut out, and the search goes on behind it.
  with recursive cut (place, piece, id, rest) as (
    select 0, null::bytea, null::int, split_added_tokens.bytes
    union all
    select c.place + 1,
           case when t.id is null then c.rest else substring(c.rest for t.position - 1) end,
           t.id,
           case when t.id is not null then substring(c.rest from t.position + length(t.content)) end
    from cut c
      left join lateral (select a.id, a.content, position(a.content in c.rest) as position
                         from unnest(split_added_tokens.contents, split_added_tokens.ids) as a (content, id)
                         where position(a.content in c.rest) > 0
                           and a.content <> ''
                         order by 3, length(a.content) desc, a.id
                         limit 1) t on true
    where c.rest is not null
  )
  select c.place, c.piece, c.id
  from cut c
  where c.place > 0;
end;
comment on function sql_diffusion.split_added_tokens(bytea, bytea[], int[]) is
  'A text in pieces at the tokens of these contents: each row has what is before a token, which may be empty, and the token''s id; the last one has the rest and NULL.';

create function sql_diffusion.split_words(bytes bytea, tokenizer_class text) returns table (place int, word bytea)
language sql immutable strict parallel safe rows 50
begin atomic
  -- The regular expressions of the tokenizers ask for classes of Unicode. So each character is written as one of ASCII that is of its
  -- class, those of ASCII as themselves, and the expressions are matched with that. Each of their matches begins where the one before
  -- ended; the server takes the longest of the alternatives where the tokenizers take the first, so that these are written in such a
  -- way that no later one is longer. GPT-2's \s+(?!\S)|\s+ leaves to the next word the last of several spaces: behind the first
  -- alternative the second only ever meets one.
  with character as (
    select c.place, c.start,
           case
             when c.code between 33 and 126 or c.code = 32 then chr(c.code)
             else (array['.', 'q', '0', E'\t'])[1 + (sql_diffusion.unicode_class(c.code) & 3)]
           end as letter
    from sql_diffusion.utf8_characters(split_words.bytes) c
  ), sentence as (
    select string_agg(c.letter, '' order by c.place) as letters,
           array_agg(c.start order by c.place) || length(split_words.bytes) as starts
    from character c
  ), match as (
    select m.matches[1] as letters, m.place, sum(length(m.matches[1])) over (order by m.place) as ends
    from sentence s,
      lateral regexp_matches(s.letters collate "C",
        case split_words.tokenizer_class
          when 'CLIPTokenizer' then '<[|]startoftext[|]>|<[|]endoftext[|]>|''s|''t|''re|''ve|''m|''ll|''d|[A-Za-z]+|[0-9]|[^ A-Za-z0-9]+| '
          else E'''s|''t|''re|''ve|''m|''ll|''d| ?[A-Za-z]+| ?[0-9]+| ?[^ \tA-Za-z0-9]+|[ \t]+(?![^ \t])|[ \t]'
        end, 'g') with ordinality as m (matches, place)
  ), word as (
    -- CLIP's words go through GPT-2's expression once more, which splits <|endoftext|>, where that stands for itself, into three
    select w.place, w.part, length(w.letters[1]) as length, w.ends - w.length + sum(length(w.letters[1])) over (partition by w.place order by w.part) as ends
    from (select m.place, m.ends, length(m.letters) as length, p.letters, p.part
          from match m,
            lateral regexp_matches(m.letters collate "C",
              case when m.letters in ('<|startoftext|>', '<|endoftext|>') then '[a-z]+|[^a-z]+' else '.+' end, 'g') with ordinality as p (letters, part)
          where split_words.tokenizer_class <> 'CLIPTokenizer'
             or m.letters <> ' ') w
  )
  select (row_number() over (order by w.place, w.part))::int as place,
         substring(split_words.bytes from s.starts[w.ends - w.length + 1] + 1 for s.starts[w.ends + 1] - s.starts[w.ends - w.length + 1]) as word
  from word w,
    sentence s;
end;
comment on function sql_diffusion.split_words(bytea, text) is
  'The words of a text, place counted from 1, as CLIPTokenizer (which leaves out white space) or GPT2Tokenizer splits it. For CLIP the text is normalized before.';
