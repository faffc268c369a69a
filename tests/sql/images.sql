-- Pictures. PNGs are decoded, and compared with what diffusers makes, in tests/test_images.py.
\set SHOW_CONTEXT never
\pset null NULL

-- black, white; one red pixel; one half transparent
select image_png('{{{0,1}}}');
select image_png('{{{1}},{{0}},{{0}}}');
select length(image_png('{{{1}},{{0}},{{0}},{{0.5}}}')), length(image_png('{{{1}},{{0.5}}}'));
-- values are clamped; halves go to the even level: 0.5 to 0, 1.5 to 2, 2.5 to 2
select byte from sql_diffusion.image_bytes(array[[[-3, 7, 0.5 / 255, 1.5 / 255, 2.5 / 255]]]::real[]);
-- a pixel becomes a square
select image_png('{{{0,1}}}', 2) = image_png('{{{0,0,1,1},{0,0,1,1}}}');
-- the check values of the two sums
select to_hex(sql_diffusion.crc32('123456789')) as cbf43926, to_hex(sql_diffusion.adler32('Wikipedia')) as "11e60398", sql_diffusion.crc32(''), sql_diffusion.adler32('');

select format('[%s]', image_ascii('{{{0,0.25,0.5,0.75,1}}}', 10));
select format('[%s]', image_ascii('{{{0,0.25,0.5,0.75,1}}}', 10, dark => false));
select format('[%s]', image_ascii('{{{1,0,0,1}},{{0,1,0,1}},{{0,0,1,1}}}', 8));
select format('[%s]', image_ascii('{{{0,1},{0,1},{0,1},{0,1}}}'));

select translate(image_ansi('{{{0,1},{1,0},{0.2,0.2}}}'), E'\033', '^');
select translate(image_ansi('{{{1}},{{0.5}},{{0}}}', 2), E'\033', '^');

select image_png(null), image_png('{{{1}}}', null);
select count(*) from image_ansi(null);
select image_png('{}');
select image_png('{1,2}');
select image_png('{{{NULL}}}');
select image_png('{{{NaN}}}');
select image_png('{{{-Infinity}}}');
select image_png('[0:0][1:1][1:1]={{{1}}}');
select image_png(array_fill(1::real, '{5,1,1}'));
select image_png('{{{1}}}', 0);
select image_png('{{{1}}}', 7072);
select image_ascii(null);
select image_ascii('{{{1}}}', 0);
select image_ascii('{{{1}}}', dark => null);
select image_ansi('{{{1}}}', 101);

-- what is written is read, compressed or not
select image_from_png(image_png('{{{0,1}},{{0.2,0.4}},{{1,0}}}')), image_from_png(image_png('{{{0,1}},{{0.2,0.4}},{{1,0}}}', 1, 0));
-- forty equal rows: the size of both
select length(image_png(array_fill(0.5::real, '{1,40,40}'))) < 300, length(image_png(array_fill(0.5::real, '{1,40,40}'), compression => 0));
select image_resize('{{{0,1}}}', 1, 4, 'nearest'), image_resize('{{{0,1}}}', 1, 4, 'bilinear'), image_resize('{{{0,0.5,1,0.5}}}', 1, 2, 'bilinear');
select image_grid('{{{{0.1}}},{{{0.2}}},{{{0.3}}}}'), image_grid('{{{{0.1}}},{{{0.2}}},{{{0.3}}}}', 3);
select image_from_png(null);
select image_from_png('not a png');
select image_from_png(substring(image_png('{{{1}}}') for 40));
select image_from_png(set_byte(image_png('{{{1}}}'), 50, 99));
select image_png('{{{1}}}', compression => 10);
select image_resize('{{{1}}}', 0, 1);
select image_resize('{{{1}}}', 1, 1, 'cubic');
select image_grid('{{{1}}}');
select image_grid('{{{{1}}}}', 0);
