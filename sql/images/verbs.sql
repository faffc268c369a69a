-- Pictures: what people type of what both backends make. Not inlined, and planned for any arguments: with constants for them the planner would run
-- the function of pure SQL, an immutable one, even where the other backend is to do it.

create function sql_diffusion.numpy_image_png(image real[], scale int, compression int) returns bytea
language plpgsql stable parallel unsafe
set search_path to pg_catalog, pg_temp
as $$
begin
  return sql_diffusion_numpy.image_png(numpy_image_png.image, numpy_image_png.scale, numpy_image_png.compression);
end
$$;
comment on function sql_diffusion.numpy_image_png(real[], int, int) is 'Calls sql_diffusion_numpy.image_png with the same arguments.';

create function sql_diffusion.numpy_image_from_png(png bytea) returns real[]
language plpgsql stable parallel unsafe
set search_path to pg_catalog, pg_temp
as $$
begin
  return sql_diffusion_numpy.image_from_png(numpy_image_from_png.png);
end
$$;
comment on function sql_diffusion.numpy_image_from_png(bytea) is 'Calls sql_diffusion_numpy.image_from_png with the same argument.';

create function sql_diffusion.numpy_image_resize(image real[], height int, width int, method text) returns real[]
language plpgsql stable parallel unsafe
set search_path to pg_catalog, pg_temp
as $$
begin
  return sql_diffusion_numpy.image_resize(numpy_image_resize.image, numpy_image_resize.height, numpy_image_resize.width, numpy_image_resize.method);
end
$$;
comment on function sql_diffusion.numpy_image_resize(real[], int, int, text) is 'Calls sql_diffusion_numpy.image_resize with the same arguments.';

create function @extschema@.image_png(image real[], scale int default 1, compression int default 6, backend text default null) returns bytea
language sql stable parallel unsafe
set plan_cache_mode = force_generic_plan
return case sql_diffusion.choose_backend(backend)
  when 'sql' then sql_diffusion.image_png(image, scale, compression)
  else sql_diffusion.numpy_image_png(image, scale, compression)
end;
comment on function @extschema@.image_png(real[], int, int, text) is
  'An image (channels, height, width), values 0..1, as the bytes of a PNG: 1 channel is gray, 2 gray and alpha, 3 RGB, 4 RGBA. Values are clamped to 0..1 and rounded as diffusers and '
  'Pillow do. Each pixel becomes a square of scale by scale pixels. compression: 0 for none, at which the bytes depend on the picture alone, 1 to 9 as zlib has them; the picture is always the same. '
  'backend: auto, sql or numpy, which torch is too. 22023 for anything that is not such an image, and for more than 50 million values.';

create function @extschema@.image_from_png(png bytea, backend text default null) returns real[]
language sql stable parallel unsafe
set plan_cache_mode = force_generic_plan
return case sql_diffusion.choose_backend(backend)
  when 'sql' then sql_diffusion.image_from_png(png)
  else sql_diffusion.numpy_image_from_png(png)
end;
comment on function @extschema@.image_from_png(bytea, text) is
  'A PNG of any kind as an image (channels, height, width), values 0..1: gray has 1 channel, gray and alpha 2, RGB and palettes 3, RGBA 4; transparency of other kinds (tRNS) adds an alpha channel. 1 to 16 bits a sample, '
  'interlaced or not; gamma and colour profiles are not applied. backend: auto, sql or numpy, which torch is too. At most 16777216 values (a square of 2048 pixels with 4 channels) and 134217728 bytes, else 54000, which the header tells before anything is decoded. 22023 for anything '
  'that is not a whole PNG: a wrong header, chunk, checksum, stream, filter or colour.';

create function @extschema@.image_resize(image real[], height int, width int, method text default 'lanczos', backend text default null) returns real[]
language sql stable parallel unsafe
set plan_cache_mode = force_generic_plan
return case sql_diffusion.choose_backend(backend)
  when 'sql' then sql_diffusion.image_resize(image, height, width, method)
  else sql_diffusion.numpy_image_resize(image, height, width, method)
end;
comment on function @extschema@.image_resize(real[], int, int, text, text) is
  'An image (channels, height, width), values 0..1, in another height and width, as Pillow''s Image.resize makes it, to within one grey level. method: nearest, bilinear, bicubic or lanczos; all but the first are antialiased, and colours count as much as '
  'their alpha covers. Values are clamped to 0..1. backend: auto, sql or numpy, which torch is too. 22023 for anything else, 54000 for more than 67108864 values.';
