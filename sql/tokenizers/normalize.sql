-- Characters as numbers. The server's own lower(), normalize() and classes of regular expressions depend on its encoding, locale and
-- version; these depend on nothing: a text is its bytes in UTF-8, and a character the code point that unicode.sql knows.

create function sql_diffusion.utf8_characters(bytes bytea) returns table (place bigint, start int, code int)
language sql immutable strict parallel safe rows 100
begin atomic
  select row_number() over (order by b.i) as place,
         b.i as start,
         case
           when b.lead < 128 then b.lead
           when b.lead < 224 then ((b.lead & 31) << 6) | (get_byte(utf8_characters.bytes, b.i + 1) & 63)
           when b.lead < 240 then ((b.lead & 15) << 12) | ((get_byte(utf8_characters.bytes, b.i + 1) & 63) << 6) | (get_byte(utf8_characters.bytes, b.i + 2) & 63)
           else ((b.lead & 7) << 18) | ((get_byte(utf8_characters.bytes, b.i + 1) & 63) << 12)
             | ((get_byte(utf8_characters.bytes, b.i + 2) & 63) << 6) | (get_byte(utf8_characters.bytes, b.i + 3) & 63)
         end as code
  from (select i, get_byte(utf8_characters.bytes, i) as lead
        from generate_series(0, length(utf8_characters.bytes) - 1) as i
        offset 0) b
  where b.lead & 192 <> 128;
end;
comment on function sql_diffusion.utf8_characters(bytea) is
  'The characters of a text in UTF-8, which has to be valid: place, counted from 1; start, its first byte, counted from 0; and code point.';

create function sql_diffusion.utf8(codes int[]) returns bytea
language sql immutable strict parallel safe
begin atomic
  select coalesce(decode(string_agg(
    case
      when c.code < 128 then lpad(to_hex(c.code), 2, '0')
      when c.code < 2048 then to_hex(49280 | ((c.code & 1984) << 2) | (c.code & 63))                                              -- c080
      when c.code < 65536 then to_hex(14712960 | ((c.code & 61440) << 4) | ((c.code & 4032) << 2) | (c.code & 63))                -- e08080
      else to_hex(4034953344 | (((c.code & 1835008) << 6) | ((c.code & 258048) << 4) | ((c.code & 4032) << 2) | (c.code & 63)))   -- f0808080
    end, '' order by c.place), 'hex'), '')
  from unnest(codes) with ordinality as c (code, place);
end;
comment on function sql_diffusion.utf8(int[]) is 'Code points as text in UTF-8.';

create function sql_diffusion.unicode_class(code int) returns int
language sql immutable parallel safe
return (sql_diffusion.unicode_classes())[width_bucket(code * 8 + 7, sql_diffusion.unicode_classes())] & 7;
comment on function sql_diffusion.unicode_class(int) is
  'The class of a code point: 0 other, 1 letter, 2 number, 3 white space; 4 more where NFC may change the character or join it to the one before.';

create function sql_diffusion.nfc_composed(codes int[]) returns int[]
language sql immutable strict parallel safe
begin atomic
  -- A text falls into segments that have nothing to do with each other: one begins at each character that NFC leaves alone. Those of
  -- one character are done; the others are taken apart, their marks put in order, and put together again, all segments side by side.
  with recursive decomposition (code, first, second) as (
    select d.code, d.first, d.second
    from unnest(sql_diffusion.unicode_decomposed(), sql_diffusion.unicode_decomposition_first(), sql_diffusion.unicode_decomposition_second()) as d (code, first, second)
  ), numbered as (
    select c.place, c.code, c.unstable, count(*) filter (where not c.unstable) over (order by c.place) as segment
    from (select u.place, u.code, sql_diffusion.unicode_class(u.code) & 4 <> 0 as unstable
          from unnest(nfc_composed.codes) with ordinality as u (code, place)) c
  ), marked as (
    select n.place, n.code, n.segment, bool_or(n.unstable) over (partition by n.segment) as changes
    from numbered n
  ), parts (segment, place, depth, code, tail) as (
    select m.segment, m.place, 0, m.code, '{}'::int[]
    from marked m
    where m.changes
    union all
    select p.segment, p.place, p.depth + 1, d.first, case d.second when 0 then p.tail else abs(d.second) || p.tail end
    from parts p
      join decomposition d on d.code = p.code
  ), decomposed (segment, place, part, code) as (
    select p.segment, p.place, u.part, u.code
    from (select distinct on (p.place) p.segment, p.place, p.code, p.tail
          from parts p
          order by p.place, p.depth desc) p,
      lateral (select p.code - 44032 as syllable) h,
      lateral unnest(case                                                                    -- Hangul, section 3.12 of the standard
        when h.syllable between 0 and 11171 and h.syllable % 28 = 0 then array[4352 + h.syllable / 588, 4449 + h.syllable % 588 / 28]
        when h.syllable between 0 and 11171 then array[4352 + h.syllable / 588, 4449 + h.syllable % 588 / 28, 4519 + h.syllable % 28]
        else array[p.code]
      end || p.tail) with ordinality as u (code, part)
  ), classed as (
    select d.segment, d.place, d.part, d.code,
           (sql_diffusion.unicode_combining_classes())[width_bucket(d.code * 256 + 255, sql_diffusion.unicode_combining_classes())] & 255 as class
    from decomposed d
  ), ordered as (
    -- marks behind one starter (a character of class 0) by their class, those of one class as they stood
    select s.segment, s.code, s.class, row_number() over (partition by s.segment order by s.starters, s.class, s.place, s.part) as n
    from (select c.segment, c.place, c.part, c.code, c.class,
                 count(*) filter (where c.class = 0) over (partition by c.segment order by c.place, c.part) as starters
          from classed c) s
  ), composed (segment, n, codes, starter, last) as (
    -- starter is the place of the last starter in codes, last the class of the last character there
    select distinct o.segment, 0::bigint, '{}'::int[], 0, 0
    from ordered o
    union all
    select c.segment, o.n,
           case when j.code is null then c.codes || o.code else c.codes[:c.starter - 1] || j.code || c.codes[c.starter + 1:] end,
           case when j.code is null and o.class = 0 then cardinality(c.codes) + 1 else c.starter end,
           case when j.code is null then o.class else c.last end
    from composed c
      join ordered o on o.segment = c.segment and o.n = c.n + 1
      left join decomposition d on d.first = c.codes[c.starter] and d.second = o.code,
      lateral (select case
                 when c.starter = 0 or c.last >= o.class and c.last > 0 then null              -- nothing before it, or blocked
                 when d.code is not null then d.code
                 when c.codes[c.starter] between 4352 and 4370 and o.code between 4449 and 4469
                   then 44032 + ((c.codes[c.starter] - 4352) * 21 + o.code - 4449) * 28
                 when c.codes[c.starter] between 44032 and 55203 and (c.codes[c.starter] - 44032) % 28 = 0 and o.code between 4520 and 4546
                   then c.codes[c.starter] + o.code - 4519
               end as code) j
  )
  select array_agg(r.code order by r.segment, r.place)
  from (select m.segment, m.place, m.code
        from marked m
        where not m.changes
        union all
        select f.segment, u.place, u.code
        from (select distinct on (c.segment) c.segment, c.codes
              from composed c
              order by c.segment, c.n desc) f,
          lateral unnest(f.codes) with ordinality as u (code, place)) r;
end;
comment on function sql_diffusion.nfc_composed(int[]) is 'What nfc gives for a text that has characters which it may change.';

create function sql_diffusion.nfc(codes int[]) returns int[]
language sql immutable strict parallel safe
begin atomic
  select case
    when exists (select from unnest(nfc.codes) as c (code) where sql_diffusion.unicode_class(c.code) & 4 <> 0)
      then sql_diffusion.nfc_composed(nfc.codes)
    else nfc.codes
  end;
end;
comment on function sql_diffusion.nfc(int[]) is
  'Unicode''s normalization form C of code points (Unicode Standard Annex 15). Most texts are in it and have nothing that could not be.';

create function sql_diffusion.clip_normalize(codes int[]) returns int[]
language sql immutable strict parallel safe
begin atomic
  select coalesce(array_agg(l.code order by s.place, l.part), '{}')
  from (select c.place, c.code, c.space, lag(c.space, 1, false) over (order by c.place) as after_space
        from (select n.place, n.code, sql_diffusion.unicode_class(n.code) & 3 = 3 as space
              from unnest(sql_diffusion.nfc(clip_normalize.codes)) with ordinality as n (code, place)) c) s,
    lateral (select width_bucket(s.code, sql_diffusion.unicode_uppercase()) as i) w,
    lateral unnest(case
      when s.space then array[32]
      when s.code = 304 then array[105, 775]
      when w.i > 0 and (sql_diffusion.unicode_uppercase())[w.i] = s.code then array[(sql_diffusion.unicode_lowercase())[w.i]]
      else array[s.code]
    end) with ordinality as l (code, part)
  where not (s.space and s.after_space);
end;
comment on function sql_diffusion.clip_normalize(int[]) is
  'Code points as CLIP''s tokenizer takes them: in normalization form C, white space as one space, and in lower case, each character by itself.';
