-- The layers, with numbers small enough to check by hand. The comparison with PyTorch is in tests/test_layers.py.
\set SHOW_CONTEXT never
\pset null NULL
set search_path to sql_diffusion;

-- x / (1 + exp(-x)): 0 stays 0, ln 3 gives 3/4 of itself, -ln 3 a quarter
select silu(array[0, ln(3), -ln(3)]::real[]), array[0, 0.75 * ln(3), -0.25 * ln(3)]::real[] as expected;
select silu('{{-1000,1000}}');

select add('{{1,2},{3,4}}', '{{10,20},{30,40}}');
select add_channels('{{{1,2}},{{3,4}}}', '{10,20}');
select concatenate('{{{1,2}}}', '{{{3,4}},{{5,6}}}');
select pad('{{{1,2},{3,4}}}', 0, 1, 0, 1);
select pad('{{{1,2},{3,4}}}', 1, 2, 0, 0, -1);
select interpolate_nearest('{{{1,2},{3,4}}}');
select interpolate_nearest('{{{1,2}}}', 3);
select reshape('{1,2,3,4,5,6}', '{1,2,3}');

-- each output is a sum of products: 1*5 + 2*6 = 17, 3*5 + 4*6 = 39
select linear('{5,6}', '{{1,2},{3,4}}');
select linear('{5,6}', '{{1,2},{3,4}}', '{100,-100}');
select linear('{{5,6},{1,0}}', '{{1,2},{3,4}}');

-- a kernel that picks the left neighbour, one that adds up nine pixels, a stride, a 1x1 kernel over two channels
select conv2d('{{{1,2,3},{4,5,6},{7,8,9}}}', '{{{{0,0,0},{1,0,0},{0,0,0}}}}', padding => 1);
select conv2d('{{{1,2,3},{4,5,6},{7,8,9}}}', '{{{{1,1,1},{1,1,1},{1,1,1}}}}');
select conv2d('{{{1,2,3},{4,5,6},{7,8,9}}}', '{{{{1,1,1},{1,1,1},{1,1,1}}}}', '{0.5}', padding => 1);
select conv2d('{{{1,2,3,4},{5,6,7,8}}}', '{{{{1}}}}', stride => 2);
select conv2d('{{{1,2}},{{10,20}}}', '{{{{1}},{{1}}},{{{1}},{{-1}}}}', '{0,1000}');

-- two groups of two values: mean 2 and 15, deviation 1 and 5
select group_norm('{1,3,10,20}', 2, eps => 1e-12);
select group_norm('{1,3,10,20}', 2, '{1,2,3,4}', '{0,0,0,100}', 1e-12);
-- all alike: eps keeps it from dividing by zero
select group_norm('{{{7,7}},{{7,7}}}', 1);

-- equal keys: the mean of the values; a key that fits far better: its value
select round((scaled_dot_product_attention('{{1,0}}', '{{0,1},{0,1}}', '{{1},{3}}'))[1][1]::numeric, 4);
select scaled_dot_product_attention('{{1000,0}}', '{{1,0},{-1,0}}', '{{1},{3}}');

-- sines, then cosines, of t and t / 100; and the other way round
select array(select round(e::numeric, 5) from unnest(timestep_embedding(1, 4, downscale_freq_shift => 0)) e),
  array[round(sin(1)::numeric, 5), round(sin(0.01)::numeric, 5), round(cos(1)::numeric, 5), round(cos(0.01)::numeric, 5)] as expected;
select timestep_embedding(0, 4, flip_sin_to_cos => true);

-- halves, brain floats and floats, least significant byte first: 1, -2, 0.5
select tensor_from_bytes('\x003c00c00038', 'float16', '{3}');
select tensor_from_bytes('\x803f00c0003f', 'bfloat16', '{3}');
select tensor_from_bytes('\x0000803f000000c00000003f', 'float32', '{1,3}');

-- NULL in, NULL out, where nothing may be left out; a bias of NULL is none
select silu(null), add(null, '{1}'), linear('{1}', '{{2}}', null);
