-- The parameters of networks, one row a module. A reader of the view sql_diffusion.parameters sees weights as real[]. They lie in a table beside
-- it: a weight of a 16-bit checkpoint as the checkpoint's own bytes, half of what the numbers take, any other as real[]. What has one dimension,
-- biases and the weights of norms, is real[] always: it is a thousandth of a model, and pure SQL reads it at every step.

create table sql_diffusion.sixteen_bit_numbers (
  dtype    text primary key check (dtype in ('float16', 'bfloat16')),
  numbers  real[] not null check (cardinality(numbers) = 65536)
);
comment on table sql_diffusion.sixteen_bit_numbers is 'The numbers that sixteen bits stand for: looking a number up is several times faster than working it out from its bits.';
comment on column sql_diffusion.sixteen_bit_numbers.dtype is 'float16 or bfloat16';
comment on column sql_diffusion.sixteen_bit_numbers.numbers is 'the number of each pattern of bits, shape (65536)';

alter table sql_diffusion.sixteen_bit_numbers alter column numbers set storage external;

-- IEEE 754, from the most significant bit: sign, exponent, fraction. Exponent 0 has no hidden bit; the full exponent is an infinity or NaN.
insert into sql_diffusion.sixteen_bit_numbers (dtype, numbers)
select layout.dtype, (select array_agg(case
                                       when number.exponent < layout.full
                                       then (number.sign * (number.fraction + case when number.exponent > 0 then layout.hidden else 0 end)
                                             * power(2::float8, greatest(number.exponent, 1) - layout.bias))::real
                                       when number.fraction = 0 then (number.sign * 'infinity'::float8)::real
                                       else 'nan'::real
                                       end order by number.bits)
                      from (select bits,
                                   case when bits >= 32768 then -1 else 1 end::float8 as sign,
                                   bits % 32768 / layout.hidden as exponent,
                                   bits % layout.hidden as fraction
                            from generate_series(0, 65535) bits) number)
from (values ('float16', 1024, 25, 31), ('bfloat16', 128, 134, 255)) layout (dtype, hidden, bias, "full");

grant select on sql_diffusion.sixteen_bit_numbers to public;

create function sql_diffusion.numbers_from_bytes(bytes bytea, dtype text) returns real[]
language sql stable strict parallel safe cost 1000000
set jit = off
return (
  select array_agg(word.numbers[word.high * 256 + word.low + 1])
  from (select place.numbers, get_byte(place.bytes, place.i + 1) as high, get_byte(place.bytes, place.i) as low
        from (select content.numbers, content.bytes, generate_series(0, octet_length(content.bytes) - 2, 2) as i
              from (select n.numbers || '{}'::real[] as numbers, numbers_from_bytes.bytes || ''::bytea as bytes
                    from sql_diffusion.sixteen_bit_numbers n
                    where n.dtype = numbers_from_bytes.dtype
                    offset 0) content) place) word);
comment on function sql_diffusion.numbers_from_bytes(bytea, text) is
  'The numbers, shape (n), of 2 n bytes, each float16 or bfloat16, least significant byte first.';

create function sql_diffusion.numbers_from_bytes_parallel(bytes bytea, dtype text) returns table (share int, numbers real[])
language sql stable strict parallel safe rows 16
set jit = off
set plan_cache_mode = force_generic_plan
set parallel_leader_participation = off
begin atomic
  -- sixteen pieces, for they are put together one after the other
  select s.share, sql_diffusion.numbers_from_bytes(substring(bytes from piece.first + 1 for piece.last - piece.first), dtype) as numbers
  from sql_diffusion.shares_of(16) s,
       lateral (select (octet_length(bytes) / 2 * (s.first - 1)::bigint / 16 * 2)::int as first,
                       (octet_length(bytes) / 2 * s.last::bigint / 16 * 2)::int as last) piece;
end;
comment on function sql_diffusion.numbers_from_bytes_parallel(bytea, text) is
  'numbers_from_bytes in pieces, by two workers or more where the server allows it (sql/parallel.sql).';

create function sql_diffusion.weight_from_bytes(bytes bytea, dtype text, shape int[]) returns real[]
language sql stable strict parallel safe
set jit = off
return sql_diffusion.with_shape(
         case
         when sql_diffusion.worth_two_workers(octet_length(bytes) * 100::float8)
         -- fetched here, for a worker cannot read what lies in a temporary table
         then (select sql_diffusion.array_cat_agg(piece.numbers order by piece.share) from sql_diffusion.numbers_from_bytes_parallel(bytes || ''::bytea, dtype) piece)
         else sql_diffusion.numbers_from_bytes(bytes, dtype)
         end, shape);
comment on function sql_diffusion.weight_from_bytes(bytea, text, int[]) is
  'A weight of this shape from its bytes, row-major, each number float16 or bfloat16, least significant byte first. It checks nothing, and takes NaN and infinities as they are: tensor_from_bytes does not.';

create function sql_diffusion.check_stored_weight(weight real[], weight_shape int[], dtype text, weight_bytes bytea) returns boolean
language sql immutable parallel safe
return
  case
  when dtype is null and weight_bytes is not null then
    sql_diffusion.fail('parameters: weight_bytes is given without dtype', 'Both are set, or both are null.')
  when dtype is null then
    sql_diffusion.check_tensor(weight, 'parameters: weight') and weight_shape = sql_diffusion.shape(weight)
  when dtype not in ('float16', 'bfloat16') then
    sql_diffusion.fail(format('parameters: dtype is %L, expected float16, bfloat16 or null', dtype), 'Of other numbers give the weight itself.')
  when weight is not null then
    sql_diffusion.fail('parameters: weight and weight_bytes are given, expected one of the two')
  when weight_bytes is null then
    sql_diffusion.fail(format('parameters: weight_bytes is null, expected the weight''s numbers as %s', dtype))
  when sql_diffusion.check_shape(weight_shape, 'parameters: weight_shape') and octet_length(weight_bytes) <> 2 * sql_diffusion.numel(weight_shape) then
    sql_diffusion.fail(format('parameters: weight_bytes has %s bytes, expected %s, two a number of shape %s', octet_length(weight_bytes), 2 * sql_diffusion.numel(weight_shape), weight_shape))
  else
    true
  end;
comment on function sql_diffusion.check_stored_weight(real[], int[], text, bytea) is
  'True for a weight that can be stored, as real[] or as bytes, otherwise an error (22023). False for another shape than that of the real[].';

create table sql_diffusion.stored_parameters (
  model         text not null,
  component     text not null,
  key           text not null,
  weight        real[],
  bias          real[] check (bias is null or sql_diffusion.check_tensor(bias, 'parameters: bias', 'out')),
  weight_shape  int[] not null,
  bias_shape    int[],
  dtype         text,
  weight_bytes  bytea,
  primary key (model, component, key),
  foreign key (model, component) references sql_diffusion.components (model, component) on update cascade on delete cascade
);
alter table sql_diffusion.stored_parameters
  add constraint stored_parameters_one_weight check (sql_diffusion.check_stored_weight(weight, weight_shape, dtype, weight_bytes)),
  add constraint stored_parameters_bias_shape check (bias_shape is not distinct from sql_diffusion.shape(bias));
comment on table sql_diffusion.stored_parameters is
  'How the rows of the view sql_diffusion.parameters lie on disk: what dumps and subscriptions carry. Only the owner reads and writes it; everybody else has the view.';
comment on column sql_diffusion.stored_parameters.model is 'the model it belongs to';
comment on column sql_diffusion.stored_parameters.component is 'the network it belongs to';
comment on column sql_diffusion.stored_parameters.key is 'the module''s path in the checkpoint: down_blocks.0.resnets.0.conv1';
comment on column sql_diffusion.stored_parameters.weight is 'the weight, where it is not stored as bytes';
comment on column sql_diffusion.stored_parameters.bias is 'shape (out); NULL where the module has none';
comment on column sql_diffusion.stored_parameters.weight_shape is 'the shape of the weight';
comment on column sql_diffusion.stored_parameters.bias_shape is 'the shape of bias';
comment on column sql_diffusion.stored_parameters.dtype is 'what the bytes hold, float16 or bfloat16; NULL where the weight is real[]';
comment on column sql_diffusion.stored_parameters.weight_bytes is 'the weight''s numbers, row-major, least significant byte first, as safetensors files have them';

-- Weights do not compress: EXTERNAL stores them as they are, out of line, and of bytes a part can be read alone.
alter table sql_diffusion.stored_parameters
  alter column weight set storage external,
  alter column bias set storage external,
  alter column weight_bytes set storage external;

create view sql_diffusion.parameters as
select s.model,
       s.component,
       s.key,
       coalesce(s.weight, sql_diffusion.weight_from_bytes(s.weight_bytes, s.dtype, s.weight_shape)) as weight,
       s.bias,
       s.weight_shape,
       s.bias_shape,
       s.dtype,
       s.weight_bytes,
       concat_ws(' ', s.ctid, s.xmin) as version
from sql_diffusion.stored_parameters s;
comment on view sql_diffusion.parameters is
  'One row a module of a network: its weight and its bias. Rows are inserted with model, component, key, weight and bias, and changed and deleted as those of a table; a weight that is changed is stored as real[].';
comment on column sql_diffusion.parameters.model is 'the model it belongs to';
comment on column sql_diffusion.parameters.component is 'the network it belongs to';
comment on column sql_diffusion.parameters.key is 'the module''s path in the checkpoint: down_blocks.0.resnets.0.conv1';
comment on column sql_diffusion.parameters.weight is
  'the array''s dimensions are the tensor''s shape: (out, in, height, width) of a convolution, (out, in) of a linear layer, (channels) of a norm';
comment on column sql_diffusion.parameters.bias is 'shape (out); NULL where the module has none';
comment on column sql_diffusion.parameters.weight_shape is 'the shape of weight, which can be read without reading the weight';
comment on column sql_diffusion.parameters.bias_shape is 'the shape of bias';
comment on column sql_diffusion.parameters.dtype is 'float16 or bfloat16 where the weight is stored in 16 bits, as weight_bytes; otherwise NULL, and it is stored as real[]';
comment on column sql_diffusion.parameters.weight_bytes is
  'the numbers of a weight in 16 bits, row-major, least significant byte first, as safetensors files have them. A row can be inserted with dtype, weight_bytes and weight_shape in place of weight';
comment on column sql_diffusion.parameters.version is 'where the row lies and which transaction put it there: every change of the row makes it another';

grant select on sql_diffusion.parameters to public;

-- Deleting from the view is deleting from the table, without reading the weights; inserting and updating choose how a weight is stored.
create function sql_diffusion.write_parameter() returns trigger
language plpgsql volatile security definer
set search_path to pg_catalog, pg_temp
as $$
declare
  found_version text;
begin
  if tg_op = 'UPDATE' then
    -- What the statement read may be another transaction's past by now: writing all of the row would undo what that one has written.
    select concat_ws(' ', s.ctid, s.xmin) into found_version
    from sql_diffusion.stored_parameters s
    where (s.model, s.component, s.key) = (old.model, old.component, old.key)
    for update;
    if found_version <> old.version then
      perform sql_diffusion.fail(format('parameter %s of model "%s" was changed meanwhile', old.key, old.model), 'Try again.', '40001');
    end if;
  end if;
  if tg_op = 'UPDATE' and coalesce(old.dtype, new.dtype) is not null and new.weight is distinct from old.weight then
    if new.weight_bytes <> coalesce(old.weight_bytes, '') then
      perform sql_diffusion.fail('parameters: weight and weight_bytes are given, expected one of the two');
    end if;
    if old.dtype is not null then
      new.dtype := null;
      new.weight_bytes := null;
    end if;
  end if;
  if new.dtype is null and new.weight_bytes is null then
    perform sql_diffusion.check_tensor(new.weight, 'parameters: weight');
    new.weight_shape := sql_diffusion.shape(new.weight);
  end if;
  new.bias_shape := sql_diffusion.shape(new.bias);
  if tg_op = 'INSERT' then
    insert into sql_diffusion.stored_parameters (model, component, key, weight, bias, weight_shape, bias_shape, dtype, weight_bytes)
    values (new.model, new.component, new.key, new.weight, new.bias, new.weight_shape, new.bias_shape, new.dtype, new.weight_bytes);
    return new;
  end if;
  update sql_diffusion.stored_parameters s
  set model = new.model, component = new.component, key = new.key, weight = case when new.dtype is null then new.weight end, bias = new.bias,
      weight_shape = new.weight_shape, bias_shape = new.bias_shape, dtype = new.dtype, weight_bytes = new.weight_bytes
  where (s.model, s.component, s.key) = (old.model, old.component, old.key);
  return case when found then new end;
end
$$;
comment on function sql_diffusion.write_parameter() is
  'Trigger of sql_diffusion.parameters: stores a row that is inserted or updated. A weight that is replaced becomes real[]; one that is not stays in the bytes that it is in.';
revoke execute on function sql_diffusion.write_parameter() from public;

create trigger write_parameter
  instead of insert or update on sql_diffusion.parameters
  for each row
  execute function sql_diffusion.write_parameter();
