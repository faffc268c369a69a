-- Tensors are plain real[] arrays whose dimensions are the tensor's shape: what the layers share.
--
-- Two habits of these files. Elements are read by unnest in a select list, which streams them in row-major order, and an
-- aggregate over such a list, or over one generate_series, meets them in that order; wherever rows come from a join or a
-- table, the order is stated. A large array that may come out of a table is detoasted once, by appending nothing to it,
-- and not again at every subscript.

create function sql_diffusion.shape(input real[]) returns int[]
language sql immutable strict parallel safe
return (select array_agg(array_length(input, dimension) order by dimension)
        from generate_series(1, array_ndims(input)) dimension);
comment on function sql_diffusion.shape(real[]) is
  'The tensor''s shape: {3,64,64} for an image of three channels. NULL for an empty array, which has none.';

create function sql_diffusion.check_tensor(input real[], name text, dimensions text default null) returns boolean
language sql immutable parallel safe
return
  case
  when input is null then
    sql_diffusion.fail(name || ' is null')
  when cardinality(input) = 0 then
    sql_diffusion.fail(name || ' is empty')
  when array_ndims(input) <> cardinality(string_to_array(dimensions, ', ')) then
    sql_diffusion.fail(format('%s has shape %s, expected %s dimension%s (%s)', name,
      sql_diffusion.shape(input), cardinality(string_to_array(dimensions, ', ')),
      case when dimensions like '%, %' then 's' else '' end, dimensions))
  when exists (select from generate_series(1, array_ndims(input)) dimension where array_lower(input, dimension) <> 1) then
    sql_diffusion.fail(format('%s has the bounds %s, expected subscripts that begin at 1', name, array_dims(input)))
  else
    true
  end;
comment on function sql_diffusion.check_tensor(real[], text, text) is
  'Refuses an array that is no tensor: NULL, empty, of another rank than the named dimensions ("channels, height, width"; NULL for any rank), '
  'or with subscripts that do not begin at 1. The name opens the message: "conv2d: input".';

create function sql_diffusion.check_values(input real[], name text) returns boolean
language sql immutable strict parallel safe
return (
  select case
         when count(element) < count(*) then
           sql_diffusion.fail(name || ' holds null elements')
         when max(abs(element)) >= 'infinity' then                        -- NaN sorts above infinity
           sql_diffusion.fail(name || ' holds NaN or infinite values')
         else
           true
         end
  from (select unnest(input) as element) elements);
comment on function sql_diffusion.check_values(real[], text) is
  'Refuses a tensor with an element that is NULL, NaN or infinite. The name opens the message: "silu: input".';

create function sql_diffusion.check_same_shape(input real[], model real[], name text, model_name text) returns boolean
language sql immutable strict parallel safe
return
  case when sql_diffusion.shape(input) <> sql_diffusion.shape(model)
  then sql_diffusion.fail(format('%s has shape %s, expected the shape of %s, %s', name, sql_diffusion.shape(input), model_name, sql_diffusion.shape(model)))
  else true
  end;
comment on function sql_diffusion.check_same_shape(real[], real[], text, text) is
  'Refuses a tensor whose shape is not that of another. The names are those of the message: "add: b", "a".';

-- The one way from a flat array to a shaped one: slices of a one-dimensional array, aggregated, are the rows of a
-- two-dimensional one; slices of that are the planes of a three-dimensional one; and so on.
create function sql_diffusion.fold(input real[], size int) returns real[]
language sql immutable strict parallel safe
return (select array_agg(input[start : start + size - 1])
        from generate_series(1, array_length(input, 1), size) start);
comment on function sql_diffusion.fold(real[], int) is
  'Cuts the first dimension (size * n) into two, (n, size). It holds for an input of any rank and checks nothing.';

create function sql_diffusion.with_shape(input real[], shape int[]) returns real[]
language sql immutable strict parallel safe
return
  case cardinality(shape)
  when 1 then input
  when 2 then sql_diffusion.fold(input, shape[2])
  when 3 then sql_diffusion.fold(sql_diffusion.fold(input, shape[3]), shape[2])
  when 4 then sql_diffusion.fold(sql_diffusion.fold(sql_diffusion.fold(input, shape[4]), shape[3]), shape[2])
  when 5 then sql_diffusion.fold(sql_diffusion.fold(sql_diffusion.fold(sql_diffusion.fold(input, shape[5]), shape[4]), shape[3]), shape[2])
  when 6 then sql_diffusion.fold(sql_diffusion.fold(sql_diffusion.fold(sql_diffusion.fold(sql_diffusion.fold(
                input, shape[6]), shape[5]), shape[4]), shape[3]), shape[2])
  end;
comment on function sql_diffusion.with_shape(real[], int[]) is
  'A flat array with a shape of 1 to 6 dimensions (all that an array can have) put on it; the sizes must multiply to its length. It checks nothing: reshape does.';

create function sql_diffusion.numel(shape int[]) returns bigint
language sql immutable strict parallel safe
return least(shape[1]::numeric * coalesce(shape[2], 1) * coalesce(shape[3], 1) * coalesce(shape[4], 1) * coalesce(shape[5], 1) * coalesce(shape[6], 1),
             1000000000000000000)::bigint;
comment on function sql_diffusion.numel(int[]) is 'The number of elements of a tensor of this shape; at most 10 ^ 18, for shapes that no array can have.';

create function sql_diffusion.check_size(shape int[], name text) returns boolean
language sql immutable strict parallel safe
return
  case when sql_diffusion.numel(shape) > 67108864
  then sql_diffusion.fail(format('%s has shape %s, expected at most 67108864 elements', name, shape), errcode => '54000')
  else true
  end;
comment on function sql_diffusion.check_size(int[], text) is
  'Refuses a tensor before it is made (54000) that would have more than 2 ^ 26 elements: an array holds twice that. The name opens the message: "pad: output".';

create function sql_diffusion.check_shape(shape int[], name text) returns boolean
language sql immutable parallel safe
return
  case
  when shape is null then
    sql_diffusion.fail(name || ' is null')
  when coalesce(array_ndims(shape), 0) <> 1 or cardinality(shape) > 6 or array_lower(shape, 1) <> 1
       or coalesce((select bool_or(coalesce(size, 0) < 1) from unnest(shape) size), true) then
    sql_diffusion.fail(format('%s is %s, expected 1 to 6 positive sizes', name, shape))
  else
    true
  end;
comment on function sql_diffusion.check_shape(int[], text) is
  'Refuses what is no shape: NULL, no or more than six sizes, a size below 1. The name opens the message: "reshape: shape".';

create function sql_diffusion.reshape(input real[], shape int[]) returns real[]
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(input, 'reshape: input'),
         sql_diffusion.check_shape(shape, 'reshape: shape');
  select case when cardinality(input) <> sql_diffusion.numel(shape) then
           sql_diffusion.fail(format('reshape: input has shape %s, expected %s elements for the shape %s',
                                     sql_diffusion.shape(input), sql_diffusion.numel(shape), shape))
         end,
         sql_diffusion.check_values(input, 'reshape: input');
  select sql_diffusion.with_shape(array_agg(elements.element), shape)
  from (select unnest(input) as element) elements;
end;
comment on function sql_diffusion.reshape(real[], int[]) is
  'The same elements, row-major, in another shape of 1 to 6 dimensions: torch.reshape. The sizes must multiply to the number of elements; -1 is not understood.';

create function sql_diffusion.tensor_from_bytes(bytes bytea, dtype text, shape int[]) returns real[]
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_shape(shape, 'tensor_from_bytes: shape'),
         case when dtype not in ('float16', 'bfloat16', 'float32') then
           sql_diffusion.fail(format('tensor_from_bytes: dtype is "%s", expected float16, bfloat16 or float32', dtype))
         end;
  select case when octet_length(bytes) <> sql_diffusion.numel(shape) * case dtype when 'float32' then 4 else 2 end then
           sql_diffusion.fail(format('tensor_from_bytes: bytes has %s bytes, expected %s for the shape %s of %s', octet_length(bytes),
             sql_diffusion.numel(shape) * case dtype when 'float32' then 4 else 2 end, shape, dtype))
         end;
  -- IEEE 754, from the most significant bit: sign, exponent, fraction. Exponent 0 has no hidden bit; the full exponent
  -- is an infinity or NaN. A bfloat16 is the upper half of a float32.
  select sql_diffusion.with_shape(tensor.elements, shape)
  from (select array_agg((case when number.negative then -1 else 1 end
                          * (number.fraction + case when number.exponent > 0 then layout.hidden else 0 end)
                          * power(2::float8, greatest(number.exponent, 1) - layout.bias))::real)
                 filter (where number.exponent < layout.full) as elements,
               bool_or(number.exponent = layout.full) as broken
        from (select case dtype when 'float32' then 4 else 2 end as size,
                     case dtype when 'float16' then 1024 else 8388608 end as hidden,
                     case dtype when 'float16' then 25 else 150 end as bias,
                     case dtype when 'float16' then 31 else 255 end as full) layout,
             lateral (select bytes || ''::bytea as bytes offset 0) content,
             lateral (select word.high & 128 <> 0 as negative,
                             case dtype when 'float16' then (word.high >> 2) & 31 else ((word.high & 127) << 1) | (word.low >> 7) end as exponent,
                             case dtype when 'float16' then ((word.high & 3) << 8) | word.low else ((word.low & 127) << 16) | word.rest end as fraction
                      from (select get_byte(content.bytes, finish) as high,
                                   get_byte(content.bytes, finish - 1) as low,
                                   case dtype when 'float32' then (get_byte(content.bytes, finish - 2) << 8) | get_byte(content.bytes, finish - 3)
                                              else 0 end as rest
                            from generate_series(layout.size - 1, octet_length(content.bytes) - 1, layout.size) finish) word) number) tensor
  where case when tensor.broken then sql_diffusion.fail('tensor_from_bytes: bytes holds NaN or infinite values') else true end;
end;
comment on function sql_diffusion.tensor_from_bytes(bytea, text, int[]) is
  'A tensor of this shape from its bytes, row-major, each number float16, bfloat16 or float32 (IEEE 754), least significant byte first, '
  'as safetensors files have them. NaN and infinities are refused.';

create function sql_diffusion.transpose(input real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
return (
  select (select array_agg((select array_agg(flat.elements[i])
                            from (select generate_series(y, cardinality(input), array_length(input, 2)) as i) rows) order by y)
          from generate_series(1, array_length(input, 2)) y)
  from (select array_agg(element) as elements
        from (select unnest(input) as element) elements offset 0) flat);
comment on function sql_diffusion.transpose(real[]) is 'The transpose of a matrix, (rows, columns) to (columns, rows). It checks nothing.';
