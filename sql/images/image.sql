-- Pictures: what a person looks at. An image is real[channels][height][width] with values 0..1; 1 channel is gray, 2 are gray and
-- alpha, 3 are red, green and blue, 4 have alpha too.

create function sql_diffusion.check_image(image real[], name text) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_tensor(image, name, 'channels, height, width');
  select sql_diffusion.check_values(image, name);
  select case
    when array_length(image, 1) > 4
      then sql_diffusion.fail(format('%s has %s channels, expected 1 to 4', name, array_length(image, 1)),
        'An image is channels first: real[channels][height][width].')
    else true
  end;
end;
comment on function sql_diffusion.check_image(real[], text) is
  'Refuses what is no image (channels, height, width) of 1 to 4 channels. The name opens the message: "image_png: image".';

create function sql_diffusion.image_levels(image real[]) returns int[]
language sql immutable parallel safe
begin atomic
  -- The product is rounded to real before the half goes to the even neighbour: so do NumPy and diffusers.
  select array_agg(round((greatest(0::real, least(1::real, v.value)) * 255::real)::double precision)::int)
  from (select unnest(image_levels.image) as value) v;
end;
comment on function sql_diffusion.image_levels(real[]) is
  'The values of an image as a picture file holds them, in their order: round(255 x) after x was clamped to 0..1, halves to the even number.';

create function sql_diffusion.image_bytes(image real[]) returns table (y int, x int, channel int, byte int)
language sql immutable parallel safe
begin atomic
  select
    (v.place / d.width % d.height)::int,
    (v.place % d.width)::int,
    (v.place / d.width / d.height)::int,
    v.byte
  from (select array_length(image_bytes.image, 2) as height, array_length(image_bytes.image, 3) as width offset 0) d,      -- once, not for each value
    lateral (select u.byte, u.ordinality - 1 as place from unnest(sql_diffusion.image_levels(image_bytes.image)) with ordinality as u (byte)) v;
end;
comment on function sql_diffusion.image_bytes(real[]) is
  'The samples of an image as a picture file holds them: one row a value, counted from 0; byte is round(255 x) after x was clamped to 0..1, halves to the even number.';
