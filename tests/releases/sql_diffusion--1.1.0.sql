-- The first lines of the install script.

-- Names are bound when a function is made, so nothing but pg_catalog may be searched while it is made:
-- every other name in these files carries its schema.
set local search_path to pg_catalog, pg_temp;

create schema sql_diffusion;
comment on schema sql_diffusion is
  'Diffusion models in pure SQL: the tables that hold checkpoints, and the reference layers, networks and schedulers.';
grant usage on schema sql_diffusion to public;
-- SQL has no statement that raises an error; this is the one procedural function that the layers call.

create function sql_diffusion.fail(message text, hint text default null, errcode text default '22023') returns boolean
language plpgsql volatile parallel safe
set search_path to pg_catalog, pg_temp
as $$
begin
  if hint is null then
    raise exception using message = message, errcode = errcode;
  end if;
  raise exception using message = message, hint = hint, errcode = errcode;
end
$$;
comment on function sql_diffusion.fail(text, text, text) is
  'Raises an error with this message, hint and SQLSTATE (22023, invalid parameter value, unless told otherwise). It never returns; '
  'its type is boolean so that a check can stand in a CASE. Volatile, so that the planner never runs it ahead of its turn.';

create function sql_diffusion.check_settings(name text, config jsonb, rules text[]) returns boolean
language sql immutable parallel safe
begin atomic
  with problem (ordinal, message) as (
    select 0, format('%s: the configuration is %s, expected an object', name, coalesce(jsonb_typeof(config), 'null'))
    where jsonb_typeof(config) is distinct from 'object'
    union all
    select i, format('%s: setting %s is %s, expected %s', name, rules[i][1], coalesce(config -> rules[i][1], 'null'), rules[i][2])
    from generate_subscripts(rules, 1) as i
    where not coalesce(jsonb_path_match(config -> rules[i][1], ('strict ' || rules[i][3])::jsonpath, silent => true), false)
    order by 1
    limit 1
  )
  select coalesce((select sql_diffusion.fail(p.message, 'The reference tells which settings are supported.', '0A000') from problem p), true);
end;
comment on function sql_diffusion.check_settings(text, jsonb, text[]) is
  'True for a configuration that keeps every rule, otherwise an error (0A000) that names the first setting that does not. A rule is a row of three texts: the setting, '
  'what is expected, and a JSON path predicate in strict mode, that is true where the setting is supported. The name opens the message.';
-- Where checkpoints live: a model has components (networks), a component has parameters (one row a module).

create table sql_diffusion.models (
  name       text primary key check (name <> ''),
  pipeline   text not null,
  scheduler  jsonb not null,
  defaults   jsonb not null default '{}',
  source     text,
  revision   text,
  sha256     text check (sha256 ~ '^[0-9a-f]{64}$'),
  loaded_at  timestamptz not null default now(),
  bundled    boolean not null default false
);
comment on table sql_diffusion.models is
  'One row a loaded model. A model is written in one transaction, so it is visible only once it is whole.';
comment on column sql_diffusion.models.name is 'what ddpm_generate(model => ...) is given';
comment on column sql_diffusion.models.pipeline is 'the diffusers pipeline class, as in model_index.json: DDPMPipeline or DDIMPipeline';
comment on column sql_diffusion.models.scheduler is 'the scheduler''s configuration, scheduler_config.json as it is';
comment on column sql_diffusion.models.defaults is
  'what ddpm_generate uses where it is not told: an object with any of scheduler (ddpm or ddim), num_inference_steps and timesteps. '
  'Without it, what the diffusers pipeline does: 1000 steps of DDPM or 50 of DDIM.';
comment on column sql_diffusion.models.source is 'the repository or path that the checkpoint was read from';
comment on column sql_diffusion.models.revision is 'the revision of the repository, where there is one';
comment on column sql_diffusion.models.sha256 is 'the SHA-256 of the file of weights; of the concatenated digests, in file order, where there are several files';
comment on column sql_diffusion.models.loaded_at is 'when it was loaded';
comment on column sql_diffusion.models.bundled is 'true for the model that comes with the extension, which dumps leave out';

create unique index models_one_bundled on sql_diffusion.models (bundled) where bundled;
comment on index sql_diffusion.models_one_bundled is 'At most one model comes with the extension.';

create table sql_diffusion.components (
  model      text not null references sql_diffusion.models (name) on update cascade on delete cascade,
  component  text not null,
  config     jsonb not null,
  primary key (model, component)
);
comment on table sql_diffusion.components is 'One row a network of a model.';
comment on column sql_diffusion.components.model is 'the model it belongs to';
comment on column sql_diffusion.components.component is 'the folder''s name in the checkpoint: unet';
comment on column sql_diffusion.components.config is 'the network''s configuration, the checkpoint''s own config.json';

create table sql_diffusion.parameters (
  model      text not null,
  component  text not null,
  key        text not null,
  weight     real[] not null,
  bias       real[],
  primary key (model, component, key),
  foreign key (model, component) references sql_diffusion.components (model, component) on update cascade on delete cascade
);
comment on table sql_diffusion.parameters is 'One row a module of a network: its weight and its bias.';
comment on column sql_diffusion.parameters.model is 'the model it belongs to';
comment on column sql_diffusion.parameters.component is 'the network it belongs to';
comment on column sql_diffusion.parameters.key is 'the module''s path in the checkpoint: down_blocks.0.resnets.0.conv1';
comment on column sql_diffusion.parameters.weight is
  'the array''s dimensions are the tensor''s shape: (out, in, height, width) of a convolution, (out, in) of a linear layer, (channels) of a norm';
comment on column sql_diffusion.parameters.bias is 'shape (out); NULL where the module has none';

-- Floats do not compress: EXTERNAL stores them as they are, out of line, and lets a slice be read alone.
alter table sql_diffusion.parameters
  alter column weight set storage external,
  alter column bias set storage external;

grant select on sql_diffusion.models, sql_diffusion.components, sql_diffusion.parameters to public;
-- What pg_dump saves of an extension's tables: the models that were loaded; the bundled one comes back with CREATE EXTENSION.
-- Not a part of the plain script (scripts/managed_sql.py), whose tables pg_dump saves as any others.
select pg_extension_config_dump('sql_diffusion.models', 'where not bundled');
select pg_extension_config_dump('sql_diffusion.components',
  'where model not in (select m.name from sql_diffusion.models m where m.bundled)');
select pg_extension_config_dump('sql_diffusion.parameters',
  'where model not in (select m.name from sql_diffusion.models m where m.bundled)');
-- Packed kernels: the weights of convolutions as the big numbers that conv2d multiplies (sql/layers/conv2d.sql), so that they are
-- not written again for every picture. They are derived from sql_diffusion.parameters by sql_diffusion.pack(model): never a second
-- truth. They go when their parameter is changed or removed, dumps leave them out, and everything works without them.

create table sql_diffusion.packed_layers (
  id          int generated always as identity primary key,
  model       text not null,
  component   text not null,
  key         text not null,
  row_stride  int not null check (row_stride > 0),
  largest     double precision[] not null,
  unique (model, component, key),
  foreign key (model, component, key) references sql_diffusion.parameters (model, component, key) on update cascade on delete cascade
);
comment on table sql_diffusion.packed_layers is 'One row a module whose kernels are packed.';
comment on column sql_diffusion.packed_layers.id is 'what its kernels refer to';
comment on column sql_diffusion.packed_layers.model is 'the model it belongs to';
comment on column sql_diffusion.packed_layers.component is 'the network it belongs to';
comment on column sql_diffusion.packed_layers.key is 'the module''s path in the checkpoint';
comment on column sql_diffusion.packed_layers.row_stride is 'the slots from one row of a kernel to the next: they serve images of one width (conv2d_row_stride)';
comment on column sql_diffusion.packed_layers.largest is 'conv2d_largest of the weight, shape (in)';

create table sql_diffusion.packed_kernels (
  layer        int not null references sql_diffusion.packed_layers (id) on delete cascade,
  out_channel  int not null check (out_channel > 0),
  kernels      numeric[] not null,
  primary key (layer, out_channel)
);
comment on table sql_diffusion.packed_kernels is 'One row an output channel of a packed module.';
comment on column sql_diffusion.packed_kernels.layer is 'the module';
comment on column sql_diffusion.packed_kernels.out_channel is 'the output channel, from 1';
comment on column sql_diffusion.packed_kernels.kernels is 'a big number for each input channel, and their sum: what conv2d_kernels returns';

alter table sql_diffusion.packed_kernels alter column kernels set storage external;

grant select on sql_diffusion.packed_layers, sql_diffusion.packed_kernels to public;

-- The foreign keys follow a removed or renamed module; a weight that is replaced in place needs a trigger. Where changes arrive by
-- logical replication no foreign key acts, so the triggers do its work too, and fire there as well.
create function sql_diffusion.unpack() returns trigger
language plpgsql volatile security definer
set search_path to pg_catalog, pg_temp
as $$
begin
  delete from sql_diffusion.packed_kernels k
  using sql_diffusion.packed_layers l
  where l.id = k.layer
    and l.model = old.model
    and l.component = old.component
    and l.key = old.key;
  delete from sql_diffusion.packed_layers l
  where l.model = old.model
    and l.component = old.component
    and l.key = old.key;
  return null;
end
$$;
comment on function sql_diffusion.unpack() is 'Trigger of sql_diffusion.parameters: forgets the packed kernels of a weight that has changed or gone.';
revoke execute on function sql_diffusion.unpack() from public;

create trigger unpack
  after update on sql_diffusion.parameters
  for each row
  when (old.weight is distinct from new.weight or (old.model, old.component, old.key) is distinct from (new.model, new.component, new.key))
  execute function sql_diffusion.unpack();

create trigger unpack_deleted
  after delete on sql_diffusion.parameters
  for each row
  execute function sql_diffusion.unpack();

alter table sql_diffusion.parameters
  enable always trigger unpack,
  enable always trigger unpack_deleted;
-- Parallel query inside a pass. PostgreSQL's workers share out the pages of a table, nothing else: so here is a table whose rows
-- lie on a page each, and a row stands for a share of the channels (or heads) of a layer. A query
--
--   select s.share, layer_function(..., s.first, s.last) from sql_diffusion.shares_of(n) s
--
-- in a function that returns a set is run by several processes where the server allows it and the function is said to be dear.
-- It is the same query, with the same result, where it does not. Such a function says plan_cache_mode = force_generic_plan: PostgreSQL 18
-- would first plan it for the arguments that came, with megabytes of them as constants in the plan that workers are sent.

create table sql_diffusion.shares (
  share  int primary key,
  page   text not null
);
comment on table sql_diffusion.shares is 'Sixty-four shares of a layer''s work, which parallel workers take one after the other.';
comment on column sql_diffusion.shares.share is 'its number, 1 to 64';
comment on column sql_diffusion.shares.page is 'nothing: what fills the row''s page, since workers share a table out page by page';

alter table sql_diffusion.shares set (fillfactor = 10, parallel_workers = 8);
insert into sql_diffusion.shares (share, page)
select share, repeat('-', 1000) from generate_series(1, 64) share;
grant select on sql_diffusion.shares to public;

create function sql_diffusion.shares_of(n int) returns table (share int, first int, last int)
language sql stable parallel safe rows 16
begin atomic
  select s.share, (s.share - 1) * n / 64 + 1 as first, s.share * n / 64 as last
  from sql_diffusion.shares s
  where (s.share - 1) * n / 64 < s.share * n / 64;
end;
comment on function sql_diffusion.shares_of(int) is 'The shares of n things, such as channels: the first and the last that belongs to each.';

create function sql_diffusion.worth_workers(nanoseconds double precision) returns boolean
language sql immutable parallel safe
return nanoseconds > 28000000;
comment on function sql_diffusion.worth_workers(double precision) is
  'Whether to start workers for what takes one process about so many nanoseconds. Each costs more than ten milliseconds of processor time: it is forked, reads the catalogue, plans '
  'its part, gets its memory page by page, and ends.';

create aggregate sql_diffusion.array_cat_agg(anycompatiblearray) (
  sfunc    = array_cat,
  stype    = anycompatiblearray,
  parallel = safe
);
comment on aggregate sql_diffusion.array_cat_agg(anycompatiblearray) is
  'Arrays joined along their first dimension, in the order that is stated: what the shares bring home. NULL counts for nothing.';
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
  select array_agg((select array_agg(flat.elements[i])
                    from (select generate_series(y, cardinality(input), array_length(input, 2)) as i) rows) order by y)
  from (select array_agg(element) as elements
        from (select unnest(input) as element) elements offset 0) flat,
       generate_series(1, array_length(input, 2)) y);
comment on function sql_diffusion.transpose(real[]) is 'The transpose of a matrix, (rows, columns) to (columns, rows). It checks nothing.';
-- Random numbers: the stream of torch's generator on the CPU, so that one seed gives one picture here and there.
--
-- The bits are those of MT19937 (Matsumoto and Nishimura, Mersenne Twister, ACM TOMACS 8(1), 1998): 624 words of 32 bits,
-- held as bigint so that no sign and no float is in the way. A new generation of words comes from the old one by
--   x[k+624] = x[k+397] xor A(upper bit of x[k], lower 31 bits of x[k+1])                              (equation 2.1)
-- and each word is tempered before it is given out (equations 2.2 to 2.5).

create type sql_diffusion.generator as (
  words        bigint[],
  position     int,
  next_normal  double precision
);
comment on type sql_diffusion.generator is 'The state of a random number generator, as torch.Generator has it: pass it to randn, and what randn gives back to the next one.';
comment on column sql_diffusion.generator.words is 'the 624 words of MT19937, each 0 .. 4294967295';
comment on column sql_diffusion.generator.position is 'the word to be read next, 1 .. 624; 625 when all are read and a new generation is to be made';
comment on column sql_diffusion.generator.next_normal is
  'the second number of a pair of which only the first was given out; NULL where there is none. Only draws of fewer than 16 values leave and take one.';

create function sql_diffusion.manual_seed(seed bigint) returns sql_diffusion.generator
language sql immutable strict parallel safe
begin atomic
  with recursive init_genrand (k, word) as (
    select 0, manual_seed.seed & 4294967295
    union all
    select
      g.k + 1,
      (1812433253 * (g.word # (g.word >> 30)) + g.k + 1) & 4294967295
    from init_genrand g
    where g.k < 623
  )
  select row(array_agg(g.word order by g.k), 625, null)::sql_diffusion.generator
  from init_genrand g;
end;
comment on function sql_diffusion.manual_seed(bigint) is
  'A generator at the start of the stream of this seed, as torch.Generator().manual_seed(seed) makes it. MT19937 takes the lower 32 bits of the seed '
  '(of its two''s complement where it is negative), so 1 and 4294967297 give the same stream.';

-- x[k+397] xor A(...): the equation above for one word; A shifts to the right and, where the last bit was 1, adds the constant.
create function sql_diffusion.mt19937_word(word bigint, next_word bigint, far_word bigint) returns bigint
language sql immutable strict parallel safe
return far_word # (((word & 2147483648) | (next_word & 2147483647)) >> 1) # ((next_word & 1) * 2567483615);
comment on function sql_diffusion.mt19937_word(bigint, bigint, bigint) is
  'One word of the next generation of MT19937, from x[k], x[k+1] and x[k+397]: equation 2.1.';

create function sql_diffusion.mt19937_twist(words bigint[]) returns bigint[]
language sql immutable strict parallel safe
begin atomic
  -- x[k+397] is a word of the old generation for the first 227 words; then it is a word of the new one, 227 places back.
  -- So a generation is three sets, each made at once from what is known before it.
  with first_227 as (
    select array_agg(sql_diffusion.mt19937_word(w.word, w.next_word, w.far_word) order by w.k) as words
    from unnest(mt19937_twist.words[1:227], mt19937_twist.words[2:228], mt19937_twist.words[398:624])
      with ordinality as w (word, next_word, far_word, k)
  ), second_227 as (
    select array_agg(sql_diffusion.mt19937_word(w.word, w.next_word, w.far_word) order by w.k) as words
    from first_227 f,
      unnest(mt19937_twist.words[228:454], mt19937_twist.words[229:455], f.words)
        with ordinality as w (word, next_word, far_word, k)
  ), last_170 as (
    select array_agg(sql_diffusion.mt19937_word(w.word, w.next_word, w.far_word) order by w.k) as words
    from first_227 f, second_227 s,
      unnest(mt19937_twist.words[455:624], mt19937_twist.words[456:624] || f.words[1], s.words[1:170])
        with ordinality as w (word, next_word, far_word, k)
  )
  select f.words || s.words || l.words
  from first_227 f, second_227 s, last_170 l;
end;
comment on function sql_diffusion.mt19937_twist(bigint[]) is 'The next generation of MT19937: 624 words from 624 words.';

create function sql_diffusion.random_words(generator sql_diffusion.generator, count int, out words bigint[], out next sql_diffusion.generator)
language sql immutable strict parallel safe
begin atomic
  with recursive generation (number, words) as (
    select 0, (random_words.generator).words
    union all
    select g.number + 1, sql_diffusion.mt19937_twist(g.words)
    from generation g
    where (random_words.generator).position - 1 + random_words.count > 624 * (g.number + 1)
  ), untempered as (
    select 624 * g.number + w.k - (random_words.generator).position as place, w.word as y
    from generation g, unnest(g.words) with ordinality as w (word, k)
  ), tempered_2 as (                                                                             -- tempering, equations
    select u.place, u.y # (u.y >> 11) as y
    from untempered u
    where u.place between 0 and random_words.count - 1
    offset 0                                               -- keeps each step a step: merged into one expression they double
  ), tempered_3 as (
    select t.place, t.y # ((t.y << 7) & 2636928640) as y                                                 -- 2.3
    from tempered_2 t
    offset 0
  ), tempered_4 as (
    select t.place, t.y # ((t.y << 15) & 4022730752) as y                                                -- 2.4
    from tempered_3 t
    offset 0
  )
  select
    (select array_agg(t.y # (t.y >> 18) order by t.place)                                                -- 2.5
     from tempered_4 t),
    (select row(g.words, (random_words.generator).position + random_words.count - 624 * g.number, (random_words.generator).next_normal)::sql_diffusion.generator
     from generation g
     order by g.number desc
     limit 1);
end;
comment on function sql_diffusion.random_words(sql_diffusion.generator, int) is
  'The next count words of 32 bits (0 .. 4294967295) of the stream, NULL for none, and the generator after them.';

-- Both ways of drawing are Box and Muller's (A note on the generation of random normal deviates, 1958): of two uniform numbers,
-- u1 in (0, 1] and u2 in [0, 1), they make sqrt(-2 ln u1) cos(2 pi u2) and sqrt(-2 ln u1) sin(2 pi u2).

create function sql_diffusion.normals_by_blocks(words bigint[], count int) returns real[]
language sql immutable strict parallel safe
begin atomic
  -- The angle is rounded to real before its cosine is taken, as torch does it: without that the values are up to 2e-6 away.
  select array_agg(n.radius * case when n.place < 8 then cos(n.angle)::real else sin(n.angle)::real end order by n.i)
  from (select
          v.i,
          v.place,
          sqrt(-2 * ln(1 - (normals_by_blocks.words[v.block + v.place % 8 + 1] & 16777215) / 16777216::double precision)::real)::real as radius,
          6.2831855::real * ((normals_by_blocks.words[v.block + v.place % 8 + 9] & 16777215) / 16777216::double precision)::real as angle
        from (select b.i, b.i - b.i % 16 as block, b.i % 16 as place
              from generate_series(0, normals_by_blocks.count - 1 - case when normals_by_blocks.count % 16 > 0 then 16 else 0 end) as b (i)
              union all
              -- where the count is no multiple of 16, the last 16 values come from 16 words behind those of the others
              select b.i, normals_by_blocks.count, b.i - normals_by_blocks.count + 16
              from generate_series(normals_by_blocks.count - 16, normals_by_blocks.count - 1) as b (i)
              where normals_by_blocks.count % 16 > 0) v) n;
end;
comment on function sql_diffusion.normals_by_blocks(bigint[], int) is
  'Standard normal numbers as torch draws 16 and more of them: 16 at a time from 16 words, of which the first 8 give u1 and the last 8 give u2, each by its lower 24 bits; '
  'the cosines come first, then the sines. It takes count words, and 16 more where count is no multiple of 16.';

create function sql_diffusion.normals_by_pairs(words bigint[]) returns double precision[]
language sql immutable strict parallel safe
begin atomic
  select array_agg(sqrt(-2 * ln(u.u1)) * case when s.sine then sin(2 * pi() * u.u2) else cos(2 * pi() * u.u2) end order by u.i, s.sine)
  from (select
          p.i,
          1 - ((normals_by_pairs.words[4 * p.i + 3] & 2097151) * 4294967296 + normals_by_pairs.words[4 * p.i + 4]) / 9007199254740992::double precision as u1,
          ((normals_by_pairs.words[4 * p.i + 1] & 2097151) * 4294967296 + normals_by_pairs.words[4 * p.i + 2]) / 9007199254740992::double precision as u2
        from generate_series(0, cardinality(normals_by_pairs.words) / 4 - 1) as p (i)) u,
    (values (false), (true)) as s (sine);
end;
comment on function sql_diffusion.normals_by_pairs(bigint[]) is
  'Standard normal numbers as torch draws fewer than 16 of them: two from four words, the first two words give u2 by 53 bits (the upper half first), the last two u1.';

create function sql_diffusion.randn(generator sql_diffusion.generator, shape int[], out sample real[], out next sql_diffusion.generator)
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_shape(randn.shape, 'randn: shape');
  select case
    when (select sum(ln(s.size)) from unnest(randn.shape) as s (size)) > ln(67108864.5)         -- the product itself could overflow
      then sql_diffusion.fail(format('randn: shape is %s, expected at most 67108864 elements', randn.shape))
    when (randn.generator).position is null or (randn.generator).position not between 1 and 625
      or array_ndims((randn.generator).words) is distinct from 1 or array_lower((randn.generator).words, 1) <> 1
      or cardinality((randn.generator).words) <> 624
      or exists (select from unnest((randn.generator).words) as w (word) where w.word is null or w.word not between 0 and 4294967295)
      or (randn.generator).next_normal in ('NaN', 'Infinity', '-Infinity')
      then sql_diffusion.fail('randn: generator is not the state of a generator',
        'Take what sql_diffusion.manual_seed(seed) or an earlier call of randn gave back.')
    end;
  with asked as (
    select a.count, case when a.count < 16 then 4 * ((a.count + 1 - num_nonnulls((randn.generator).next_normal)) / 2)
                         else a.count + case when a.count % 16 > 0 then 16 else 0 end end as words
    from (select sql_diffusion.numel(randn.shape)::int as count) a
  ), drawn as (
    select a.count, w.next, case when a.count < 16 then array_remove(array[(randn.generator).next_normal], null) || sql_diffusion.normals_by_pairs(w.words)
                                 else sql_diffusion.normals_by_blocks(w.words, a.count) end as normals
    from asked a, sql_diffusion.random_words(randn.generator, a.words) w
  )
  select
    sql_diffusion.reshape(d.normals[1:d.count]::real[], randn.shape),
    row((d.next).words, (d.next).position, case when d.count < 16 then d.normals[d.count + 1] else (d.next).next_normal end)::sql_diffusion.generator
  from drawn d;
end;
comment on function sql_diffusion.randn(sql_diffusion.generator, int[]) is
  'Standard normal numbers of this shape, the ones that torch.randn(shape, generator=...) draws in float32 on the CPU, and the generator after them, '
  'with which the stream goes on. 22023 for a shape that is not 1 to 6 positive sizes.';

create function sql_diffusion.randn(seed bigint, shape int[]) returns real[]
language sql immutable strict parallel safe
return (sql_diffusion.randn(sql_diffusion.manual_seed(seed), shape)).sample;
comment on function sql_diffusion.randn(bigint, int[]) is
  'Standard normal numbers of this shape, the ones that torch.randn(shape, generator=torch.Generator().manual_seed(seed)) draws in float32 on the CPU.';
-- What goes from layer to layer inside a network: the planes of an image, flat, and what the next layer wants to know of each
-- channel. Whoever makes a plane learns that on the way, and so nobody has to read the planes for it again.
create type sql_diffusion.feature_maps as (
  planes    real[],
  height    int,
  width     int,
  mean      double precision[],
  variance  double precision[],
  low       double precision[],
  high      double precision[]
);
comment on type sql_diffusion.feature_maps is
  'An image inside a network: planes (channels, height * width), and of each channel the mean, the population variance, the least and the greatest value.';

create function sql_diffusion.to_maps(input real[], height int default null, width int default null) returns sql_diffusion.feature_maps
language sql immutable parallel safe
set jit = off
return (
  select row(input, coalesce(height, array_length(input, 2)), coalesce(width, array_length(input, 3)), array_agg(own.mean order by channel), array_agg(own.variance order by channel),
             array_agg(own.low order by channel), array_agg(own.high order by channel))::sql_diffusion.feature_maps
  from generate_series(1, array_length(input, 1)) channel,
       lateral (select avg(element) as mean, var_pop(element) as variance, min(element) as low, max(element) as high
                from (select unnest(input[channel:channel])::float8 as element) elements) own);
comment on function sql_diffusion.to_maps(real[], int, int) is
  'The feature maps of a tensor (channels, height, width), or (channels, height * width) whose height and width are given.';

create function sql_diffusion.from_maps(maps sql_diffusion.feature_maps) returns real[]
language sql immutable parallel safe
set jit = off
return (
  select sql_diffusion.with_shape(array_agg(element), array[array_length((maps).planes, 1), (maps).height, (maps).width])
  from (select unnest((maps).planes) as element) elements);
comment on function sql_diffusion.from_maps(sql_diffusion.feature_maps) is 'The tensor (channels, height, width) of feature maps.';

create function sql_diffusion.join_maps(a sql_diffusion.feature_maps, b sql_diffusion.feature_maps) returns sql_diffusion.feature_maps
language sql immutable parallel safe
return row((a).planes || (b).planes, (a).height, (a).width, (a).mean || (b).mean, (a).variance || (b).variance,
           (a).low || (b).low, (a).high || (b).high)::sql_diffusion.feature_maps;
comment on function sql_diffusion.join_maps(sql_diffusion.feature_maps, sql_diffusion.feature_maps) is
  'The channels of a, then those of b, of flat planes and one size: concatenate for feature maps.';
create function sql_diffusion.silu(input real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'silu: input'),
         sql_diffusion.check_values(input, 'silu: input');
  -- tanh cannot overflow, as exp would. What is too small for a real goes to 0 in the sum with 1e-29; the cast would raise an underflow.
  select sql_diffusion.with_shape(array_agg((x / 2 * (1 + tanh(x / 2)) + 1e-29 - 1e-29)::real), sql_diffusion.shape(input))
  from (select unnest(input)::float8 as x) elements;
end;
comment on function sql_diffusion.silu(real[]) is
  'x / (1 + exp(-x)), which is x/2 (1 + tanh(x/2)), of every element, torch.nn.functional.silu. A tensor of any shape; the output has the same.';
create function sql_diffusion.add(a real[], b real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(a, 'add: a'),
         sql_diffusion.check_tensor(b, 'add: b');
  select sql_diffusion.check_same_shape(b, a, 'add: b', 'a'),
         sql_diffusion.check_values(a, 'add: a'),
         sql_diffusion.check_values(b, 'add: b');
  select sql_diffusion.with_shape(array_agg(pair.x + pair.y), sql_diffusion.shape(a))
  from (select unnest(a) as x, unnest(b) as y) pair;
end;
comment on function sql_diffusion.add(real[], real[]) is 'a + b, element by element: two tensors of one shape.';

create function sql_diffusion.add_channels(input real[], vector real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'add_channels: input'),
         sql_diffusion.check_tensor(vector, 'add_channels: vector', 'channels');
  select case when array_length(vector, 1) <> array_length(input, 1) then
           sql_diffusion.fail(format('add_channels: vector has %s elements, expected one for each of the %s channels of input',
                                     array_length(vector, 1), array_length(input, 1)))
         end,
         sql_diffusion.check_values(input, 'add_channels: input'),
         sql_diffusion.check_values(vector, 'add_channels: vector');
  select sql_diffusion.with_shape(array_agg(pair.x + pair.y), sql_diffusion.shape(input))
  from (select unnest(input) as x,
               unnest((select array_agg(term)
                       from (select unnest(array_fill(element, array[cardinality(input) / cardinality(vector)])) as term
                             from (select unnest(vector) as element) elements) terms)) as y) pair;
end;
comment on function sql_diffusion.add_channels(real[], real[]) is
  'Adds to each channel of the input, shape (channels, ...), its element of the vector, shape (channels): input + vector[:, None, None].';
create function sql_diffusion.concatenate(a real[], b real[]) returns real[]
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(a, 'concatenate: a', 'channels, height, width'),
         sql_diffusion.check_tensor(b, 'concatenate: b', 'channels, height, width');
  select case when (sql_diffusion.shape(a))[2:] <> (sql_diffusion.shape(b))[2:] then
           sql_diffusion.fail(format('concatenate: b has shape %s, expected the height and width of a, %s',
                                     sql_diffusion.shape(b), sql_diffusion.shape(a)))
         end,
         sql_diffusion.check_values(a, 'concatenate: a'),
         sql_diffusion.check_values(b, 'concatenate: b');
  select a || b;
end;
comment on function sql_diffusion.concatenate(real[], real[]) is
  'The channels of a, then those of b: (channels a, height, width) and (channels b, height, width) to (channels a + b, height, width), torch.cat along the channels.';
create function sql_diffusion.pad(
  input real[], padding_left int, padding_right int, padding_top int, padding_bottom int, value real default 0
) returns real[]
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(input, 'pad: input', 'channels, height, width'),
         case when least(padding_left, padding_right, padding_top, padding_bottom) < 0 then
           sql_diffusion.fail(format('pad: padding is %s, %s, %s, %s (left, right, top, bottom), expected none below 0',
                                     padding_left, padding_right, padding_top, padding_bottom))
         end,
         case when abs(value) >= 'infinity' then
           sql_diffusion.fail(format('pad: value is %s, expected a finite number', value))
         end;
  select sql_diffusion.check_size(array[array_length(input, 1), padded.height, padded.width], 'pad: output'),
         sql_diffusion.check_values(input, 'pad: input')
  from (select least(array_length(input, 2) + padding_top::bigint + padding_bottom, 2147483647)::int as height,
               least(array_length(input, 3) + padding_left::bigint + padding_right, 2147483647)::int as width) padded;
  select array_agg(plane.rows order by channel)
  from generate_series(1, array_length(input, 1)) channel,
       lateral (
         select array_agg(array_fill(value, array[padding_left])
                          || case when y between 1 and array_length(input, 2)
                             then (select array_agg(element) from (select unnest(input[channel:channel][y:y]) as element) elements)
                             else array_fill(value, array[array_length(input, 3)])
                             end
                          || array_fill(value, array[padding_right]) order by y) as rows
         from generate_series(1 - padding_top, array_length(input, 2) + padding_bottom) y) plane;
end;
comment on function sql_diffusion.pad(real[], int, int, int, int, real) is
  'A border of a constant value around each plane of (channels, height, width); the order of the four widths is that of torch.nn.functional.pad.';
create function sql_diffusion.interpolate_nearest(input real[], scale_factor int default 2) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'interpolate_nearest: input', 'channels, height, width'),
         case when scale_factor < 1 then
           sql_diffusion.fail(format('interpolate_nearest: scale_factor is %s, expected at least 1', scale_factor))
         end;
  select sql_diffusion.check_size(array[array_length(input, 1), least(array_length(input, 2)::bigint * scale_factor, 2147483647)::int,
                                        least(array_length(input, 3)::bigint * scale_factor, 2147483647)::int], 'interpolate_nearest: output'),
         sql_diffusion.check_values(input, 'interpolate_nearest: input');
  select array_agg(plane.rows order by channel)
  from generate_series(1, array_length(input, 1)) channel,
       lateral (
         select array_agg(line.elements order by y, copy) as rows
         from generate_series(1, array_length(input, 2)) y,
              lateral (
                select array_agg(repeated.element) as elements
                from (select unnest(array_fill(pixel.element, array[scale_factor])) as element
                      from (select unnest(input[channel:channel][y:y]) as element) pixel) repeated) line,
              generate_series(1, scale_factor) copy) plane;
end;
comment on function sql_diffusion.interpolate_nearest(real[], int) is
  'Every pixel of (channels, height, width) becomes a square of scale_factor pixels: torch.nn.functional.interpolate with mode nearest.';
create function sql_diffusion.timestep_embedding(
  timestep double precision,
  embedding_dim int,
  flip_sin_to_cos boolean default false,
  downscale_freq_shift double precision default 1,
  max_period double precision default 10000
) returns real[]
language sql immutable strict parallel safe
begin atomic
  select case when not abs(timestep) <= 3.4e38 then
           sql_diffusion.fail(format('timestep_embedding: timestep is %s, expected a finite number of single precision', timestep))
         end,
         case when embedding_dim not between 2 and 65536 then
           sql_diffusion.fail(format('timestep_embedding: embedding_dim is %s, expected from 2 to 65536', embedding_dim))
         end,
         case when not (downscale_freq_shift >= -1e30 and downscale_freq_shift < embedding_dim / 2) then
           sql_diffusion.fail(format('timestep_embedding: downscale_freq_shift is %s, expected from -1e30 to less than half of embedding_dim, %s',
                                     downscale_freq_shift, embedding_dim / 2))
         end,
         case when not (max_period >= 1e-30 and max_period <= 1e30) then
           sql_diffusion.fail(format('timestep_embedding: max_period is %s, expected from 1e-30 to 1e30', max_period))
         end;
  -- Ho et al. 2020 (as Vaswani et al. 2017, section 3.5): the angles are timestep * max_period ^ (-i / (half - shift)).
  -- In float32 where PyTorch is: at an angle of 1000 its rounding is 6e-5, and the checkpoint was trained with it.
  select case when flip_sin_to_cos then wave.cosines || wave.sines else wave.sines || wave.cosines end
         || array_fill(0::real, array[embedding_dim % 2])
  -- What is next to nothing counts as 0, since single precision would refuse it.
  from (select array_agg(sin(angle.rounded::float8)::real order by i) as sines,
               array_agg(cos(angle.rounded::float8)::real order by i) as cosines
        from generate_series(0, embedding_dim / 2 - 1) i,
             lateral (select (-ln(max_period))::real * i::real / (embedding_dim / 2 - downscale_freq_shift)::real as exponent) power,
             lateral (select case when abs(timestep) > 1e-30 then timestep::real else 0 end::float8
                             * exp(greatest(least(power.exponent, 80), -80)::float8)::real as exact) product,
             lateral (select case when abs(product.exact) > 1e-30 then product.exact::real else 0 end as rounded) angle) wave;
end;
comment on function sql_diffusion.timestep_embedding(double precision, int, boolean, double precision, double precision) is
  'Sinusoidal embedding of a timestep, shape (embedding_dim): the sines, then the cosines (the other way round with flip_sin_to_cos), a last 0 '
  'where embedding_dim is odd. The angles are timestep * max_period ^ (-i / (half - downscale_freq_shift)). diffusers'' get_timestep_embedding; Ho et al. 2020, after Vaswani et al. 2017, section 3.5.';
-- Normalizing is one multiplication and one addition for each channel: what they are comes of the statistics, and whoever reads the
-- pixels next can do them on the way (conv2d_operands).
create type sql_diffusion.normalization as (
  scale      double precision[],
  shift      double precision[],
  size       double precision[],
  with_silu  boolean
);
comment on type sql_diffusion.normalization is
  'What a group norm, and silu after it where with_silu, makes of the pixels of channel c: f(pixel * scale[c] + shift[c]), of at most size[c] either way.';

create function sql_diffusion.group_norm_of_maps(
  input sql_diffusion.feature_maps, num_groups int, weight real[], bias real[], eps double precision, with_silu boolean
) returns sql_diffusion.normalization
language sql immutable parallel safe
set jit = off
return (
  select row(array_agg(affine.scale order by channel),
             array_agg(affine.shift order by channel),
             array_agg(case when with_silu then greatest(silu.at_low, silu.at_high, silu.at_bottom) else greatest(-affine.low, affine.high) end order by channel),
             with_silu)::sql_diffusion.normalization
  -- the variance of a group is the mean of its channels' variances and the variance of their means
  from (select own.channel, own.low, own.high, own.weight, own.bias,
               avg(own.mean) over same_group as mean,
               avg(own.variance) over same_group + var_pop(own.mean) over same_group as variance
        from unnest((input).mean, (input).variance, (input).low, (input).high, weight, bias) with ordinality as own (mean, variance, low, high, weight, bias, channel)
        window same_group as (partition by (own.channel - 1) / (cardinality((input).mean) / num_groups))) statistics,
       lateral (select coalesce(statistics.weight, 1) / sqrt(statistics.variance + eps) as factor offset 0) scaled,
       lateral (select scaled.factor as scale,
                       coalesce(statistics.bias, 0) - statistics.mean * scaled.factor as shift offset 0) own,
       lateral (select own.scale,
                       own.shift,
                       least(statistics.low * own.scale, statistics.high * own.scale) + own.shift as low,
                       greatest(statistics.low * own.scale, statistics.high * own.scale) + own.shift as high offset 0) affine,
       -- silu falls to its least value at -1.278 and rises on either side
       lateral (select abs(affine.low / 2 * (1 + tanh(affine.low / 2))) as at_low,
                       abs(affine.high / 2 * (1 + tanh(affine.high / 2))) as at_high,
                       case when affine.low < -1.2784645 and affine.high > -1.2784645 then 0.2784646 end as at_bottom) silu);
comment on function sql_diffusion.group_norm_of_maps(sql_diffusion.feature_maps, int, real[], real[], double precision, boolean) is
  'What group_norm is to do to each channel of this input. It does not check the arguments.';

create function sql_diffusion.group_norm_planes(input real[], norm sql_diffusion.normalization) returns real[]
language sql immutable parallel safe
set jit = off
return (
  select array_agg(plane.elements order by channel)
  from generate_series(1, array_length(input, 1)) channel,
       lateral (select (norm).scale[channel] as scale, (norm).shift[channel] as shift, (norm).with_silu as with_silu offset 0) own,
       -- tanh cannot overflow, as the exp of a sigmoid would: x / (1 + exp(-x)) is x/2 (1 + tanh(x/2))
       lateral (select array_agg((case when own.with_silu then y / 2 * (1 + tanh(y / 2)) else y end + 1e-29 - 1e-29)::real) as elements
                from (select unnest(input[channel:channel]) * own.scale + own.shift as y offset 0) normalized offset 0) plane);
comment on function sql_diffusion.group_norm_planes(real[], sql_diffusion.normalization) is
  'The input normalized, (channels, elements of a channel).';

create function sql_diffusion.group_norm(
  input real[],
  num_groups int,
  weight real[] default null,
  bias real[] default null,
  eps double precision default 1e-5
) returns real[]
language sql immutable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'group_norm: input'),
         case when weight is not null then sql_diffusion.check_tensor(weight, 'group_norm: weight', 'channels') end,
         case when bias is not null then sql_diffusion.check_tensor(bias, 'group_norm: bias', 'channels') end,
         case when num_groups is null or num_groups < 1 or array_length(input, 1) % num_groups <> 0 then
           sql_diffusion.fail(format('group_norm: num_groups is %s, expected a divisor of the %s channels of input',
                                     coalesce(num_groups::text, 'null'), array_length(input, 1)))
         end,
         case when array_length(weight, 1) <> array_length(input, 1) then
           sql_diffusion.fail(format('group_norm: weight has %s elements, expected one for each of the %s channels of input',
                                     array_length(weight, 1), array_length(input, 1)))
         end,
         case when array_length(bias, 1) <> array_length(input, 1) then
           sql_diffusion.fail(format('group_norm: bias has %s elements, expected one for each of the %s channels of input',
                                     array_length(bias, 1), array_length(input, 1)))
         end,
         case when eps is null or not (eps >= 0 and eps < 'infinity') then
           sql_diffusion.fail(format('group_norm: eps is %s, expected a finite number of at least 0', coalesce(eps::text, 'null')))
         end;
  select sql_diffusion.check_values(input, 'group_norm: input'),
         sql_diffusion.check_values(weight, 'group_norm: weight'),
         sql_diffusion.check_values(bias, 'group_norm: bias');
  select sql_diffusion.with_shape(array_agg(element), sql_diffusion.shape(input))
  from (select unnest(sql_diffusion.group_norm_planes(input, sql_diffusion.group_norm_of_maps(sql_diffusion.to_maps(input), num_groups, weight, bias, eps, false))) as element) elements;
end;
comment on function sql_diffusion.group_norm(real[], int, real[], real[], double precision) is
  'Group normalization (Wu and He 2018, equations 1, 2 and 7): the channels of the input, shape (channels, ...), fall into num_groups groups of neighbours; each group '
  'is brought to mean 0 and population variance 1, eps being added to the variance; then each channel is multiplied by its weight and its bias is added. '
  'torch.nn.functional.group_norm; without weight 1, without bias 0.';
-- 2-D convolution as the multiplication of big numbers (Kronecker substitution); doc/fast-sql.md derives it step by step.
--
-- A convolution is a product of polynomials. Write the pixels of one plane, as integers, into one decimal number, 16 digits
-- apart, and the taps of one kernel into another: their product, one numeric multiplication, done in C, has every sum of
-- products in a slot of 16 digits of its own. Adding such products over the input channels adds slot by slot. So one
-- row of work is a pair of channels, not one multiplication of two floats.
--
-- Fixed point. For each input channel c let largest[c] be the largest |weight| that reads it. A tap becomes the integer
-- round(weight / largest[c] * tap_unit), a pixel round(input * largest[c] * pixel_unit): a product then has the same unit
-- in every channel, and a channel of large values that meets small weights costs the others no precision.
--
-- The cap. A slot holds integers of less than 5e15 either way. No sum of products can be larger than
-- tap_unit * pixel_unit * taps * sum over c of (largest[c] * the largest |input| of c), so the units are chosen to keep that below 4.9e15.
--
-- Non-negative digits. A number cannot hold a negative digit: taps get 5500000 added and have 7 digits, pixels 55000000 and 8.
-- Being linear, both are taken out of the sum of products again: sum (K - z box)(X - Z ones), where box and ones have a 1 in
-- each slot that K and X use, is sum K X - Z ones sum K - z box (sum X - channels Z ones).

create function sql_diffusion.conv2d_largest(weight real[]) returns double precision[]
language sql immutable strict parallel safe
set jit = off
return (
  select array_agg((select case when count(tap) < count(*) then 'NaN' else max(abs(tap)) end
                    from (select unnest(weight[:][channel:channel])::float8 as tap) taps) order by channel)
  from generate_series(1, array_length(weight, 2)) channel);
comment on function sql_diffusion.conv2d_largest(real[]) is
  'The largest |weight| of each input channel of a weight of shape (out, in, ...), shape (in); NaN where one is NULL or NaN.';

create function sql_diffusion.conv2d_tap_unit(taps int) returns double precision
language sql immutable strict parallel safe
return least(4499999, sqrt(4.9e15 / taps));
comment on function sql_diffusion.conv2d_tap_unit(int) is
  'The integer that stands for the largest weight of a channel, where an output is a sum of so many products (in * height * width of the kernel). '
  'Half of a slot''s digits go to the taps, half to the pixels; a tap has at most 7.';

create function sql_diffusion.conv2d_kernels(weight real[], largest double precision[], row_stride int)
returns table (out_channel int, kernels numeric[])
language sql immutable strict parallel safe
set jit = off
set enable_memoize = off
begin atomic
  select o as out_channel,
         kernel.numbers || (select sum(number) from (select unnest(kernel.numbers) as number) numbers) as kernels
  from (select array_length(weight, 2) as channels,
               coalesce(array_length(weight, 3), 1) as height,
               coalesce(array_length(weight, 4), 1) as width offset 0) size,
       lateral (select convert_to(repeat('0', 16 * (row_stride - size.width) + 9), 'SQL_ASCII') as gap,
                       array_agg(factor) as factors
                from (select unnest(array_fill(coalesce(sql_diffusion.conv2d_tap_unit(size.channels * size.height * size.width)
                                                        / nullif(channel.largest, 0), 0), array[size.height * size.width])) as factor
                      from (select unnest(largest) as largest) channel) factors offset 0) layer,
       generate_series(1, array_length(weight, 1)) o,
       lateral (select array_agg((w * factor)::int + 5500000) as integers
                from (select unnest(weight[o:o]) as w, unnest(layer.factors) as factor) pair offset 0) tap,
       -- a single tap is its number; of more, those of all input channels are written the last first,
       -- so that tap (y, x) ends up at the power y * row_stride + x, and cut into channels and rows
       lateral (select case when size.height * size.width > 1
                       then convert_to((select array_to_string(array_agg(tap.integers[i]), '000000000')
                                        from (select generate_series(cardinality(tap.integers), 1, -1) as i) reversed), 'SQL_ASCII')
                       end as digits offset 0) taps,
       lateral (select case when size.height * size.width = 1
                       then tap.integers::numeric[]
                       else (select array_agg(encode(case size.height
                                                     when 1 then substring(taps.digits from start for 16 * size.width - 9)
                                                     else (select string_agg(substring(taps.digits from line for 16 * size.width - 9), layer.gap)
                                                           from (select generate_series(start, start + 16 * size.width * (size.height - 1), 16 * size.width) as line) lines)
                                                     end, 'escape')::numeric)
                             from (select generate_series(16 * size.width * size.height * (size.channels - 1) + 1, 1, -16 * size.width * size.height) as start) starts)
                       end as numbers offset 0) kernel;
end;
comment on function sql_diffusion.conv2d_kernels(real[], double precision[], int) is
  'The kernels of a weight of shape (out, in, height, width) or (out, in) as big numbers, one row an output channel: one number for each input channel, '
  'its rows row_stride slots apart, and their sum as the last. largest is conv2d_largest(weight).';

create function sql_diffusion.conv2d_row_stride(width int, kernel_width int, padding int) returns int
language sql immutable strict parallel safe
return greatest(width + padding, kernel_width);
comment on function sql_diffusion.conv2d_row_stride(int, int, int) is
  'The slots from one row of an image to the next. One gap of zeros serves as the padding at the end of a row and at the start of the next.';

create function sql_diffusion.conv2d_channels(
  input real[], first int, last int, height int, width int, scale_factor int, row_stride int, factors double precision[], norm sql_diffusion.normalization, name text
) returns table (planes numeric[])
language sql immutable parallel safe rows 1
begin atomic
  select array_agg(case when octet_length(written.digits) = 16 * ((height * scale_factor - 1) * row_stride + width * scale_factor)
                   then written.digits::numeric
                   else sql_diffusion.fail(name || ' holds null elements')::int
                   end order by c) as planes
  -- the pixels of a line follow one another; where no gap parts the lines, the whole plane is one
  from (select case when row_stride = width then height * width else width end as pixels,
               repeat('0', 16 * (row_stride - width * scale_factor)) as gap offset 0) line,
       generate_series(first, last) c,
       lateral (select factors[c] as factor, (norm).scale[c] / 2 as scale, (norm).shift[c] / 2 as shift, coalesce((norm).with_silu, false) as with_silu offset 0) channel,
       lateral (select case
                       when channel.scale is null
                       then (select array_agg((pixel * channel.factor)::int + 55000000)
                             from (select unnest(input[c:c]) as pixel) pixels)
                       -- silu is y/2 (1 + tanh(y/2)): tanh cannot overflow, as the exp of a sigmoid would
                       when channel.with_silu
                       then (select array_agg((half * (1 + tanh(half)) * channel.factor)::int + 55000000)
                             from (select unnest(input[c:c]) * channel.scale + channel.shift as half offset 0) normalized)
                       else (select array_agg(((pixel * channel.scale + channel.shift) * 2 * channel.factor)::int + 55000000)
                             from (select unnest(input[c:c]) as pixel) pixels)
                       end as integers offset 0) plane,
       lateral (select string_agg(case when scale_factor = 1
                                  then '00000000' || array_to_string(plane.integers[start : start + line.pixels - 1], '00000000')
                                  else (select string_agg(slots, line.gap)
                                        from (select string_agg(repeat('00000000' || pixel, scale_factor), '') as slots
                                              from (select unnest(plane.integers[start : start + line.pixels - 1]) as pixel) pixels offset 0) own,
                                             generate_series(1, scale_factor))
                                  end, line.gap) as digits
                from (select generate_series(1, height * width, line.pixels) as start) lines offset 0) written;
end;
comment on function sql_diffusion.conv2d_channels(real[], int, int, int, int, int, int, double precision[], sql_diffusion.normalization, text) is
  'Channels first to last of an input, planes of height * width, as big numbers: normalized on the way where norm is not NULL, every pixel as a square of scale_factor pixels. '
  'factors: the units to the value 1, for each channel. A set of one row, so that the planner puts the query in its place.';

-- A query with another put in its place is not shared out: what workers run is a function, which they plan themselves.
create function sql_diffusion.conv2d_channels_share(
  input real[], first int, last int, height int, width int, scale_factor int, row_stride int, factors double precision[], norm sql_diffusion.normalization, name text
) returns numeric[]
language sql immutable parallel safe cost 1000000
set jit = off
set enable_memoize = off
return (select c.planes from sql_diffusion.conv2d_channels(input, first, last, height, width, scale_factor, row_stride, factors, norm, name) c);
comment on function sql_diffusion.conv2d_channels_share(real[], int, int, int, int, int, int, double precision[], sql_diffusion.normalization, text) is
  'conv2d_channels as a worker runs it.';

create function sql_diffusion.conv2d_channels_parallel(
  input real[], height int, width int, scale_factor int, row_stride int, factors double precision[], norm sql_diffusion.normalization, name text
) returns table (share int, planes numeric[])
language sql immutable parallel safe rows 16
set jit = off
set plan_cache_mode = force_generic_plan
begin atomic
  select s.share,
         sql_diffusion.conv2d_channels_share(input, s.first, s.last, height, width, scale_factor, row_stride, factors, norm, name) as planes
  from sql_diffusion.shares_of(array_length(input, 1)) s;
end;
comment on function sql_diffusion.conv2d_channels_parallel(real[], int, int, int, int, double precision[], sql_diffusion.normalization, text) is
  'conv2d_channels of all channels, by several processes where the server allows it (sql/parallel.sql).';

create function sql_diffusion.conv2d_operands(
  input sql_diffusion.feature_maps, largest double precision[], norm sql_diffusion.normalization,
  kernel_height int, kernel_width int, stride int, padding int, scale_factor int, name text
) returns table (planes numeric[], rest numeric, unit double precision, slots int[], height int, width int, error double precision)
language sql immutable parallel safe rows 1
begin atomic
  select image.planes || -55000000 * constant.ones,
         constant.half - 5500000 * constant.box * ((select sum(number) from (select unnest(image.planes) as number) numbers)
                                                   - 55000000::numeric * size.channels * constant.ones),
         1 / (fixed.unit * size.tap_unit),
         output.slots,
         shape.height,
         shape.width,
         -- four standard deviations of what rounding adds to a sum: of size / tap_unit by the taps, of 1 / unit by the pixels
         case when fixed.squares > 0 then 4 * sqrt(kernel_height * kernel_width * (fixed.squares / size.tap_unit ^ 2 + size.channels / fixed.unit ^ 2) / 12) else 0 end
  from (select cardinality((input).mean) as channels,
               (input).height * scale_factor as height,
               (input).width * scale_factor as width,
               sql_diffusion.conv2d_row_stride((input).width * scale_factor, kernel_width, padding) as row_stride,
               sql_diffusion.conv2d_tap_unit(cardinality((input).mean) * kernel_height * kernel_width) as tap_unit offset 0) size,
       lateral (select case when not max(channel.size) < 'infinity'
                       then sql_diffusion.fail(name || ' holds NaN or infinite values')::int
                       else coalesce(least(44999999 / nullif(max(channel.size), 0),
                                           4.9e15 / (size.tap_unit * kernel_height * kernel_width * nullif(sum(channel.size), 0))), 1)
                       end as unit,
                       sum(channel.size ^ 2) as squares
                from (select own.largest * coalesce(own.size, greatest(-own.low, own.high)) as size
                      from unnest(largest, (norm).size, (input).low, (input).high) own (largest, size, low, high)) channel offset 0) fixed,
       lateral (select array_agg(l * fixed.unit) as factors
                from (select unnest(largest) as l) channels offset 0) scaled,
       lateral (select sql_diffusion.worth_workers(cardinality((input).planes)::float8 * case when (norm).with_silu then 250 else 170 end) as dear offset 0) cost
       left join lateral (select array_agg(number) as planes
                          from (select unnest(c.planes) as number
                                from sql_diffusion.conv2d_channels_parallel((input).planes, (input).height, (input).width, scale_factor, size.row_stride, scaled.factors, norm, name) c
                                where cost.dear
                                order by c.share) numbers offset 0) shared
       on true
       left join lateral (select c.planes
                          from sql_diffusion.conv2d_channels((input).planes, 1, size.channels, (input).height, (input).width, scale_factor, size.row_stride, scaled.factors, norm, name) c
                          where not cost.dear
                          offset 0) own
       on true
       cross join lateral (select coalesce(shared.planes, own.planes) as planes offset 0) image
       cross join lateral (select left(repeat(repeat('0000000000000001', size.width) || repeat('0', 16 * (size.row_stride - size.width)), size.height),
                            16 * ((size.height - 1) * size.row_stride + size.width))::numeric as ones,
                       left(repeat(repeat('0000000000000001', kernel_width) || repeat('0', 16 * (size.row_stride - kernel_width)), kernel_height),
                            16 * ((kernel_height - 1) * size.row_stride + kernel_width))::numeric as box,
                       -- in every slot of the product 5e15, so that what is read from it is never negative
                       ('1' || repeat('5000000000000000', (size.height + kernel_height - 2) * size.row_stride + size.width + kernel_width - 1))::numeric as half
                offset 0) constant
       cross join lateral (select (size.height + 2 * padding - kernel_height) / stride + 1 as height,
                       (size.width + 2 * padding - kernel_width) / stride + 1 as width offset 0) shape
       cross join lateral (select array_agg(2 + 16 * ((kernel_height - 1 - padding + i / shape.width * stride) * size.row_stride + kernel_width - 1 - padding + i % shape.width * stride)) as slots
                from (select generate_series(0, shape.height * shape.width - 1) as i) pixel) output
  offset 0;
end;
comment on function sql_diffusion.conv2d_operands(sql_diffusion.feature_maps, double precision[], sql_diffusion.normalization, int, int, int, int, int, text) is
  'What an input brings to its convolution. planes: a big number for each channel, pixel (y, x) in slot y * row_stride + x from the most significant end, and the last for the '
  'offset of the pixels. rest: what is to be added to the sum of the products. unit: what 1 in a slot stands for. slots: where in the digits of the sum each output pixel '
  'begins, row by row. height, width: of the output. error: what rounding may have added to an output. norm is what is done to the pixels first, NULL for nothing, and scale_factor how many times as high and wide the input is made by '
  'repeating them. The name opens the message where the input is not finite. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_plane(
  kernels numeric[], planes numeric[], rest numeric, unit double precision, slots int[], bias real, residual real[], output_scale double precision
) returns table (pixels real[], mean double precision, variance double precision, low double precision, high double precision)
language sql immutable parallel safe rows 1
begin atomic
  select plane.pixels, plane.mean, plane.variance, plane.low, plane.high
  from (select sum(kernel * plane) as number
        from (select unnest(kernels) as kernel, unnest(planes) as plane) pair offset 0) total,
       lateral (select convert_to((total.number + rest)::text, 'SQL_ASCII') as digits,
                       -- what is too small for a real goes to 0 in the sum with 1e-29; the cast would raise an underflow
                       coalesce(bias, 0) + 1e-29 as shift,
                       1e-29 * output_scale as least,
                       unit,
                       output_scale offset 0) product,
       lateral (select array_agg(pixel) as pixels, avg(pixel::float8) as mean, var_pop(pixel::float8) as variance, min(pixel)::float8 as low, max(pixel)::float8 as high
                from (select (((encode(substring(product.digits from own.slot for 16), 'escape')::bigint - 5000000000000000) * product.unit + product.shift
                               + coalesce(own.residual, 0)) * product.output_scale - product.least)::real as pixel
                      from (select unnest(slots) as slot, unnest(residual) as residual) own offset 0) pixel offset 0) plane;
end;
comment on function sql_diffusion.conv2d_plane(numeric[], numeric[], numeric, double precision, int[], real, real[], double precision) is
  'One output channel of a convolution, shape (height * width), of its kernels (conv2d_kernels) and what conv2d_operands returns, and its statistics; the residual, of the same shape or NULL, is '
  'added, and the sum multiplied by output_scale. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_rounded(
  input sql_diffusion.feature_maps, weight real[], bias real[], stride int, padding int, name text, norm sql_diffusion.normalization default null,
  residual real[] default null, output_scale double precision default 1
) returns table (maps sql_diffusion.feature_maps, largest double precision[], unit double precision, error double precision)
language sql stable parallel safe rows 1
begin atomic
  select row(array_agg(plane.pixels order by kernel.out_channel), max(operand.height), max(operand.width),
             array_agg(plane.mean order by kernel.out_channel), array_agg(plane.variance order by kernel.out_channel),
             array_agg(plane.low order by kernel.out_channel), array_agg(plane.high order by kernel.out_channel))::sql_diffusion.feature_maps as maps,
         max(layer.largest) as largest,
         max(operand.unit) as unit,
         max(operand.error) / greatest(max(plane.high), -min(plane.low), 1e-100) as error
  from (select coalesce(array_length(weight, 3), 1) as kernel_height,
               coalesce(array_length(weight, 4), 1) as kernel_width,
               sql_diffusion.conv2d_largest(weight) as largest offset 0) layer,
       sql_diffusion.conv2d_operands(input, layer.largest, norm, layer.kernel_height, layer.kernel_width, stride, padding, 1, name) operand,
       sql_diffusion.conv2d_kernels(weight, layer.largest, sql_diffusion.conv2d_row_stride((input).width, layer.kernel_width, padding)) kernel,
       sql_diffusion.conv2d_plane(kernel.kernels, operand.planes, operand.rest, operand.unit, operand.slots, bias[kernel.out_channel],
                                  residual[kernel.out_channel:kernel.out_channel], output_scale) plane
  offset 0;
end;
comment on function sql_diffusion.conv2d_rounded(sql_diffusion.feature_maps, real[], real[], int, int, text, sql_diffusion.normalization, real[], double precision) is
  'conv2d_numbers without correction; with conv2d_largest(weight), what 1 in a slot stands for, and four standard deviations of what rounding may have added to a sum, as a share of the '
  'largest output. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_remainder(elements real[], factors double precision[], run int) returns real[]
language sql immutable parallel safe
set jit = off
return (
  select array_agg((coalesce(element - (element * factor)::int / factor, 0) + 1e-29 - 1e-29)::real order by position)
  from (select element, position, factors[((position - 1) / run % cardinality(factors) + 1)::int] as factor
        from unnest(elements) with ordinality own (element, position) offset 0) own);
comment on function sql_diffusion.conv2d_remainder(real[], double precision[], int) is
  'What rounding to integers takes from the elements, of any shape, flat: run elements after one another have the same factor, and after the last factor comes the first. 0 where the factor is NULL.';

-- An outlier of the input and one of the weights that share a channel but never meet at a pixel make units far too coarse for the outputs that there are. Then what
-- rounding took from the operands is convolved too: with w = w' + dw and x = x' + dx, of which x' w' is done, x w = x' w' + x dw + dx w - dx dw, and the last is 1e-13 of x w.
create function sql_diffusion.conv2d_corrected(
  rounded sql_diffusion.feature_maps, input sql_diffusion.feature_maps, weight real[], largest double precision[], unit double precision, stride int, padding int, name text
) returns sql_diffusion.feature_maps
language sql stable parallel safe
set jit = off
set enable_memoize = off
return (
  select sql_diffusion.to_maps(sql_diffusion.fold(array_agg((rounded_pixel + from_weight + from_input + 1e-29 - 1e-29)::real), (rounded).height * (rounded).width),
                               (rounded).height, (rounded).width)
  from (select cardinality(weight) / (array_length(weight, 1) * array_length(weight, 2)) as taps,
               (input).height * (input).width as pixels,
               sql_diffusion.conv2d_tap_unit(cardinality(weight) / array_length(weight, 1)) as tap_unit offset 0) size,
       -- the same units as in conv2d_kernels and conv2d_operands; a channel without weights adds nothing
       lateral (select array_agg(size.tap_unit / nullif(l, 0)) as of_taps,
                       array_agg(nullif(l, 0) / (unit * size.tap_unit)) as of_pixels
                from (select unnest(largest) as l) channels offset 0) factor,
       lateral (select sql_diffusion.with_shape(sql_diffusion.conv2d_remainder(weight, factor.of_taps, size.taps), sql_diffusion.shape(weight)) as remainder offset 0) taps,
       lateral (select sql_diffusion.to_maps(sql_diffusion.fold(sql_diffusion.conv2d_remainder((input).planes, factor.of_pixels, size.pixels), size.pixels),
                                             (input).height, (input).width) as remainder offset 0) pixels,
       sql_diffusion.conv2d_rounded(input, taps.remainder, null, stride, padding, name) of_weight,
       sql_diffusion.conv2d_rounded(pixels.remainder, weight, null, stride, padding, name) of_input,
       lateral (select unnest((rounded).planes)::float8 as rounded_pixel,
                       unnest((of_weight.maps).planes)::float8 as from_weight,
                       unnest((of_input.maps).planes)::float8 as from_input) sums);
comment on function sql_diffusion.conv2d_corrected(sql_diffusion.feature_maps, sql_diffusion.feature_maps, real[], double precision[], double precision, int, int, text) is
  'A convolution as conv2d_rounded has it, plus what rounding took from the operands. largest and unit are those of that convolution.';

-- Said to be stable, for PostgreSQL 18 computes immutable functions of its arguments ahead, in the branches of a CASE that are not taken too.
create function sql_diffusion.conv2d_numbers(
  input sql_diffusion.feature_maps, weight real[], bias real[], stride int, padding int, name text, norm sql_diffusion.normalization default null,
  residual real[] default null, output_scale double precision default 1, corrected boolean default false
) returns sql_diffusion.feature_maps
language sql stable parallel safe
set jit = off
set enable_memoize = off
return (
  select case when corrected and rounded.error > 1e-5
         then sql_diffusion.conv2d_corrected(rounded.maps, input, weight, rounded.largest, rounded.unit, stride, padding, name)
         else rounded.maps
         end
  from sql_diffusion.conv2d_rounded(input, weight, bias, stride, padding, name, norm, residual, output_scale) rounded);
comment on function sql_diffusion.conv2d_numbers(sql_diffusion.feature_maps, real[], real[], int, int, text, sql_diffusion.normalization, real[], double precision, boolean) is
  'conv2d without its checks, for planes that fit in a number (conv2d_rows) and a padding smaller than the kernel; a weight of shape (out, in) is a 1x1 kernel. norm is done to the input first, '
  'the residual (out, height * width) is added, and the sum multiplied by output_scale. corrected: by conv2d_corrected where rounding may have added more than 1e-5 of the largest output, for an '
  'input without norm or residual. The name opens the message where the input is not finite.';

create function sql_diffusion.conv2d_rows(width int, kernel_height int, kernel_width int, stride int, padding int) returns int
language sql immutable strict parallel safe
return (select case when extra < 0 then 0 else extra::int / stride + 1 end
        from (select floor((8192 - width - kernel_width)::float8 / sql_diffusion.conv2d_row_stride(width, kernel_width, padding)) + 2 - 2 * kernel_height as extra) room);
comment on function sql_diffusion.conv2d_rows(int, int, int, int, int) is
  'The rows of output that one number has room for: a numeric has at most 131072 digits before its point, which are 8192 slots.';

create function sql_diffusion.conv2d_core(
  input sql_diffusion.feature_maps, weight real[], bias real[], stride int, padding int, name text, norm sql_diffusion.normalization default null,
  residual real[] default null, output_scale double precision default 1, corrected boolean default false
) returns sql_diffusion.feature_maps
language sql immutable parallel safe
set jit = off
set enable_memoize = off
return (
  select case
         when output.height <= sql_diffusion.conv2d_rows((input).width, kernel.height, kernel.width, stride, padding)
         then sql_diffusion.conv2d_numbers(input, weight, bias, stride, padding, name, norm, residual, output_scale, corrected)
         when output.rows < 1
         then row(array[sql_diffusion.fail(format('%s is %s wide, expected less than %s for a kernel %s high', name, (input).width, 8191 / (2 * kernel.height - 1), kernel.height),
                                           errcode => '0A000')::int], null, null, null, null, null, null)::sql_diffusion.feature_maps
         else
           -- a large image, in bands of rows
           (select sql_diffusion.to_maps(sql_diffusion.fold(array_agg(((pixel.element + coalesce(pixel.residual::float8, 0)) * output_scale + 1e-29 - 1e-29)::real), output.height * output.width),
                                         output.height, output.width)
            from (select unnest((select array_agg(pixel.element)
                                 from (select unnest((band.maps).planes[o:o]) as element
                                       from generate_series(1, array_length(weight, 1)) o,
                                            (select start,
                                                    sql_diffusion.conv2d_numbers(sql_diffusion.to_maps(lines.image),
                                                                                 weight, bias, stride, 0, name, corrected => corrected) as maps
                                             from (select sql_diffusion.pad(sql_diffusion.with_shape((select array_agg(element)
                                                                                                      from (select unnest(case when norm is null then (input).planes
                                                                                                                               else sql_diffusion.group_norm_planes((input).planes, norm)
                                                                                                                          end) as element) elements),
                                                                                                     array[array_length((input).planes, 1), (input).height, (input).width]),
                                                                            padding, padding, padding, padding) as image offset 0) padded,
                                                  generate_series(0, output.height - 1, output.rows) start,
                                                  lateral (select padded.image[:][start * stride + 1 : (start + output.rows - 1) * stride + kernel.height] as image offset 0) lines
                                             offset 0) band
                                       order by o, band.start) pixel)) as element,
                         unnest(residual) as residual) pixel)
         end
  from (select coalesce(array_length(weight, 3), 1) as height, coalesce(array_length(weight, 4), 1) as width offset 0) kernel,
       lateral (select ((input).height + 2 * padding - kernel.height) / stride + 1 as height,
                       ((input).width + 2 * padding - kernel.width) / stride + 1 as width,
                       sql_diffusion.conv2d_rows((input).width + 2 * padding, kernel.height, kernel.width, stride, 0) as rows offset 0) output);
comment on function sql_diffusion.conv2d_core(sql_diffusion.feature_maps, real[], real[], int, int, text, sql_diffusion.normalization, real[], double precision, boolean) is
  'conv2d without its checks, for a padding smaller than the kernel; a weight of shape (out, in) is a 1x1 kernel. norm is done to the input first, the residual (out, height * width) is '
  'added, and the sum multiplied by output_scale; corrected as conv2d_numbers has it. The name opens the message where the input is not finite.';

create function sql_diffusion.conv2d(
  input real[],
  weight real[],
  bias real[] default null,
  stride int default 1,
  padding int default 0
) returns real[]
language sql immutable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'conv2d: input', 'channels, height, width'),
         sql_diffusion.check_tensor(weight, 'conv2d: weight', 'out, in, height, width'),
         case when bias is not null then sql_diffusion.check_tensor(bias, 'conv2d: bias', 'out') end,
         case when stride is null or stride < 1 then
           sql_diffusion.fail(format('conv2d: stride is %s, expected at least 1', coalesce(stride::text, 'null')))
         end,
         case when padding is null or padding < 0 then
           sql_diffusion.fail(format('conv2d: padding is %s, expected at least 0', coalesce(padding::text, 'null')))
         end;
  select case when array_length(input, 1) <> array_length(weight, 2) then
           sql_diffusion.fail(format('conv2d: input has %s channels, expected %s, as weight of shape %s takes',
                                     array_length(input, 1), array_length(weight, 2), sql_diffusion.shape(weight)))
         end,
         case when array_length(bias, 1) <> array_length(weight, 1) then
           sql_diffusion.fail(format('conv2d: bias has %s elements, expected one for each of the %s output channels of weight',
                                     array_length(bias, 1), array_length(weight, 1)))
         end,
         case when array_length(input, 2) + 2::bigint * padding < array_length(weight, 3) or array_length(input, 3) + 2::bigint * padding < array_length(weight, 4) then
           sql_diffusion.fail(format('conv2d: input of shape %s with padding %s is smaller than the kernel of weight of shape %s',
                                     sql_diffusion.shape(input), padding, sql_diffusion.shape(weight)))
         end,
         sql_diffusion.check_size(array[array_length(input, 1), least(array_length(input, 2) + 2::bigint * padding, 2147483647)::int,
                                        least(array_length(input, 3) + 2::bigint * padding, 2147483647)::int], 'conv2d: padded input'),
         sql_diffusion.check_values(input, 'conv2d: input'),
         sql_diffusion.check_values(weight, 'conv2d: weight'),
         sql_diffusion.check_values(bias, 'conv2d: bias');
  -- the method takes a padding smaller than the kernel; more is added beforehand
  select sql_diffusion.from_maps(sql_diffusion.conv2d_core(sql_diffusion.to_maps(ready.image),
                                                           weight, bias, stride, ready.inside, 'conv2d: input', corrected => true))
  from (select case when padding < least(array_length(weight, 3), array_length(weight, 4)) then padding else 0 end as inside offset 0) room,
       lateral (select room.inside,
                       case when room.inside = conv2d.padding then input else sql_diffusion.pad(input, padding, padding, padding, padding) end as image offset 0) ready;
end;
comment on function sql_diffusion.conv2d(real[], real[], real[], int, int) is
  '2-D convolution (cross-correlation, as torch.nn.functional.conv2d): input (in, height, width), weight (out, in, kernel height, kernel width), bias (out) or NULL '
  'for none; the output is (out, (height + 2 padding - kernel height) / stride + 1, likewise the width). Exact to about 1e-6 of the largest value.';
create function sql_diffusion.linear_core(input real[], weight real[], bias real[], name text) returns real[]
language sql immutable parallel safe
set jit = off
return (
  -- (tokens, in) x (out, in): one pass over a row of the weight for each token where there are few,
  -- a 1x1 convolution of the transposed input where there are many
  select case
         when token.number < 8 then
           (select sql_diffusion.with_shape(array_agg(((select sum(x::float8 * w)
                                                        from (select unnest(token.flat[first : first + size.features - 1]) as x, unnest(weight[o:o]) as w) pair)
                                                       + coalesce(bias[o], 0) + 1e-29 - 1e-29)::real order by first, o), size.shape)
            from generate_series(1, token.number * size.features, size.features) first,
                 generate_series(1, array_length(weight, 1)) o)
         else
           -- 4096 tokens at a time, which a big number has room for
           (select sql_diffusion.with_shape(array_agg(output.element), size.shape)
            from (select unnest(sql_diffusion.transpose((sql_diffusion.conv2d_core(
                           sql_diffusion.to_maps(sql_diffusion.transpose(sql_diffusion.fold(token.flat[start * size.features + 1 : (start + 4096) * size.features], size.features)),
                                                 1, least(4096, token.number - start)), weight, bias, 1, 0, name, corrected => true)).planes)) as element
                  from (select generate_series(0, token.number - 1, 4096) as start) chunks) output)
         end
  from (select array_length(weight, 2) as features,
               (sql_diffusion.shape(input))[: array_ndims(input) - 1] || array_length(weight, 1) as shape offset 0) size,
       lateral (select array_agg(element) as flat,
                       (count(*) / size.features)::int as number
                from (select unnest(input) as element) elements) token);
comment on function sql_diffusion.linear_core(real[], real[], real[], text) is
  'linear without its checks. The name opens the message where the input is not finite.';

create function sql_diffusion.linear(input real[], weight real[], bias real[] default null) returns real[]
language sql immutable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(input, 'linear: input'),
         sql_diffusion.check_tensor(weight, 'linear: weight', 'out, in'),
         case when bias is not null then sql_diffusion.check_tensor(bias, 'linear: bias', 'out') end;
  select case when array_length(input, array_ndims(input)) <> array_length(weight, 2) then
           sql_diffusion.fail(format('linear: input has shape %s, expected a last dimension of %s, as weight of shape %s takes',
                                     sql_diffusion.shape(input), array_length(weight, 2), sql_diffusion.shape(weight)))
         end,
         case when array_length(bias, 1) <> array_length(weight, 1) then
           sql_diffusion.fail(format('linear: bias has %s elements, expected one for each of the %s outputs of weight',
                                     array_length(bias, 1), array_length(weight, 1)))
         end,
         sql_diffusion.check_values(input, 'linear: input'),
         sql_diffusion.check_values(weight, 'linear: weight'),
         sql_diffusion.check_values(bias, 'linear: bias');
  select sql_diffusion.linear_core(input, weight, bias, 'linear: input');
end;
comment on function sql_diffusion.linear(real[], real[], real[]) is
  'input x transposed weight + bias over the last dimension, torch.nn.functional.linear: input (..., in), weight (out, in), bias (out) or NULL for none, output (..., out).';
-- softmax(Q K^T / sqrt(E)) V, Vaswani et al. 2017, equation 1, with the big numbers of conv2d (sql/layers/conv2d.sql; doc/fast-sql.md).
-- A number holds one feature of all keys, a slot to a key: feature times number, summed over the features, is a query's
-- score with every key. A number holds all features of one value: weight times number, summed over the keys, is the output.

create function sql_diffusion.slots(input real[], unit double precision) returns setof numeric
language sql immutable parallel safe rows 1
begin atomic
  select array_to_string(array_agg((element * unit)::int + 55000000), '00000000')::numeric
  from (select unnest(input) as element) elements
  offset 0;
end;
comment on function sql_diffusion.slots(real[], double precision) is
  'The elements as one big number, 16 digits to each, the first the most significant: round(element * unit) + 55000000, which is to have 8 digits. A set of one row, so that '
  'the planner puts the query in its place.';

-- Said to be stable, for PostgreSQL 18 computes immutable functions of its arguments ahead, in the branches of a CASE that are not taken too.
create function sql_diffusion.attention_numbers(query real[], key real[], value real[], name text) returns real[]
language sql stable strict parallel safe
set jit = off
set geqo = off                                     -- the order of the joins is given; to search for another takes milliseconds
set enable_memoize = off
return (
  select sql_diffusion.transpose(array_agg(attended.features order by token.i))
  from (select array_length(query, 1) as features,
               array_length(query, 2) as queries,
               array_length(key, 2) as keys,
               array_length(value, 1) as value_features,
               least(4499999, sqrt(4.9e15 / array_length(query, 1))) as query_limit,
               least(44999999, sqrt(4.9e15 / array_length(key, 2))) as weight_limit,
               (select max(abs(element)) from (select unnest(query)::float8 as element) elements) as query_size,
               (select max(abs(element)) from (select unnest(key)::float8 as element) elements) as key_size,
               (select max(abs(element)) from (select unnest(value)::float8 as element) elements) as value_size offset 0) size,
       -- a sum of products stays below 4.9e15: of query and key over the features, of weight and value over the keys
       lateral (select case when greatest(size.keys, size.value_features) > 8190 then
                         sql_diffusion.fail(format('%s has %s keys of %s features, expected at most 8190 of either', name, size.keys, size.value_features), errcode => '0A000')::int
                       when greatest(size.query_size, size.key_size, size.value_size) < 'infinity' then size.query_limit / coalesce(nullif(size.query_size, 0), 1)
                       else sql_diffusion.fail(name || ' holds NaN or infinite values')::int
                       end as q,
                       least(44999999, 4.9e15 / (size.query_limit * size.features)) / coalesce(nullif(size.key_size, 0), 1) as k,
                       size.weight_limit / coalesce(nullif(size.value_size, 0), 1) as v offset 0) unit,
       lateral (select array_agg(number order by e)
                       || -55000000 * repeat('0000000000000001', size.keys)::numeric as keys,
                       ('1' || repeat('5000000000000000', size.keys + 1))::numeric as keys_half
                from generate_series(1, size.features) e,
                     sql_diffusion.slots(key[e:e], unit.k) number offset 0) keys,
       lateral (select array_agg(number order by j)
                       || -55000000 * repeat('0000000000000001', size.value_features)::numeric as values,
                       ('1' || repeat('5000000000000000', size.value_features + 1))::numeric as values_half
                from (select sql_diffusion.transpose(value) as tokens offset 0) transposed,
                     generate_series(1, size.keys) j,
                     sql_diffusion.slots(transposed.tokens[j:j], unit.v) number offset 0) values,
       lateral (select array_agg(element * unit.q) as elements
                from (select unnest(query) as element) elements offset 0) flat,
       lateral (select generate_series(1, size.queries) as i) token,
       lateral (select array_agg(feature::numeric) || sum(feature)::numeric as kernels
                from (select flat.elements[i]::int as feature
                      from (select generate_series(token.i, size.features * size.queries, size.queries) as i) column_) features offset 0) query_kernel,
       lateral (select convert_to(((select sum(kernel * number) from (select unnest(query_kernel.kernels) as kernel, unnest(keys.keys) as number) pair)
                                   + keys.keys_half)::text, 'SQL_ASCII') as digits offset 0) product,
       lateral (select array_agg(s) as scores,
                       max(s) as largest
                from (select (encode(substring(product.digits from slot for 16), 'escape')::bigint - 5000000000000000) * scale.score as s
                      from (select 1 / (unit.q * unit.k * sqrt(size.features)) as score offset 0) scale,
                           (select generate_series(18, 2 + 16 * size.keys, 16) as slot) slots offset 0) parsed) score,
       lateral (select array_agg(w::numeric) || sum(w)::numeric as kernels,
                       sum(w) as total
                from (select (exp(greatest(s - score.largest, -80)) * size.weight_limit)::int as w
                      from (select unnest(score.scores) as s) scores offset 0) weights) weight,
       lateral (select convert_to(((select sum(kernel * number) from (select unnest(weight.kernels) as kernel, unnest(values.values) as number) pair)
                                   + values.values_half)::text, 'SQL_ASCII') as digits offset 0) output,
       lateral (select array_agg(((encode(substring(output.digits from slot for 16), 'escape')::bigint - 5000000000000000) * scale.output + 1e-29 - 1e-29)::real) as features
                from (select 1 / (weight.total * unit.v) as output offset 0) scale,
                     (select generate_series(18, 2 + 16 * size.value_features, 16) as slot) slots offset 0) attended);
comment on function sql_diffusion.attention_numbers(real[], real[], real[], text) is
  'Attention of one head, features first: query (E, queries), key (E, keys), value (Ev, keys) to (Ev, queries). It does not check the shapes. '
  'The name opens the message where a value is not finite.';

-- Small heads, up to 8 features, are faster as rows: a row for each query and key, a column for each feature. Where no score
-- can be larger than 300 the softmax needs no maximum: exp stays far from the ends of a float8.
create function sql_diffusion.attention_columns(query real[], key real[], value real[]) returns real[]
language sql stable strict parallel safe
set jit = off
set enable_memoize = off
begin atomic
  with token as materialized (
    select coalesce(k1, 0) as k1, coalesce(k2, 0) as k2, coalesce(k3, 0) as k3, coalesce(k4, 0) as k4,
           coalesce(k5, 0) as k5, coalesce(k6, 0) as k6, coalesce(k7, 0) as k7, coalesce(k8, 0) as k8,
           coalesce(v1, 0) as v1, coalesce(v2, 0) as v2, coalesce(v3, 0) as v3, coalesce(v4, 0) as v4,
           coalesce(v5, 0) as v5, coalesce(v6, 0) as v6, coalesce(v7, 0) as v7, coalesce(v8, 0) as v8
    from (select unnest(key[1:1])::float8 as k1, unnest(key[2:2])::float8 as k2, unnest(key[3:3])::float8 as k3, unnest(key[4:4])::float8 as k4,
                 unnest(key[5:5])::float8 as k5, unnest(key[6:6])::float8 as k6, unnest(key[7:7])::float8 as k7, unnest(key[8:8])::float8 as k8,
                 unnest(value[1:1])::float8 as v1, unnest(value[2:2])::float8 as v2, unnest(value[3:3])::float8 as v3, unnest(value[4:4])::float8 as v4,
                 unnest(value[5:5])::float8 as v5, unnest(value[6:6])::float8 as v6, unnest(value[7:7])::float8 as v7, unnest(value[8:8])::float8 as v8) columns
  )
  select (sql_diffusion.transpose(array_agg(array[o1, o2, o3, o4, o5, o6, o7, o8]::real[])))[1 : array_length(value, 1)]
  from (select coalesce(q1 * factor, 0) as q1, coalesce(q2 * factor, 0) as q2, coalesce(q3 * factor, 0) as q3, coalesce(q4 * factor, 0) as q4,
               coalesce(q5 * factor, 0) as q5, coalesce(q6 * factor, 0) as q6, coalesce(q7 * factor, 0) as q7, coalesce(q8 * factor, 0) as q8
        from (select 1 / sqrt(array_length(query, 1)::float8) as factor offset 0) scale,
             (select unnest(query[1:1]) as q1, unnest(query[2:2]) as q2, unnest(query[3:3]) as q3, unnest(query[4:4]) as q4,
                     unnest(query[5:5]) as q5, unnest(query[6:6]) as q6, unnest(query[7:7]) as q7, unnest(query[8:8]) as q8) columns offset 0) asked,
       lateral (select sum(e * v1) / sum(e) + 1e-29 - 1e-29 as o1, sum(e * v2) / sum(e) + 1e-29 - 1e-29 as o2,
                       sum(e * v3) / sum(e) + 1e-29 - 1e-29 as o3, sum(e * v4) / sum(e) + 1e-29 - 1e-29 as o4,
                       sum(e * v5) / sum(e) + 1e-29 - 1e-29 as o5, sum(e * v6) / sum(e) + 1e-29 - 1e-29 as o6,
                       sum(e * v7) / sum(e) + 1e-29 - 1e-29 as o7, sum(e * v8) / sum(e) + 1e-29 - 1e-29 as o8
                from (select exp(q1 * k1 + q2 * k2 + q3 * k3 + q4 * k4 + q5 * k5 + q6 * k6 + q7 * k7 + q8 * k8) as e,
                             v1, v2, v3, v4, v5, v6, v7, v8
                      from token offset 0) weighted) output;
end;
comment on function sql_diffusion.attention_columns(real[], real[], real[]) is
  'attention_core for at most 8 features of query and key and 8 of value, and scores of at most 300 either way.';

create function sql_diffusion.attention_core(query real[], key real[], value real[], name text) returns real[]
language sql immutable strict parallel safe cost 100000
set jit = off
return (
  select case when greatest(array_length(query, 1), array_length(value, 1)) <= 8
                   and size.q * size.k * sqrt(array_length(query, 1)) < 300
                   and size.v < 'infinity'
         then sql_diffusion.attention_columns(query, key, value)
         else sql_diffusion.attention_numbers(query, key, value, name)
         end
  from (select (select max(abs(element)) from (select unnest(query)::float8 as element) elements) as q,
               (select max(abs(element)) from (select unnest(key)::float8 as element) elements) as k,
               (select max(abs(element)) from (select unnest(value)::float8 as element) elements) as v offset 0) size);
comment on function sql_diffusion.attention_core(real[], real[], real[], text) is
  'Attention of one head, features first: query (E, queries), key (E, keys), value (Ev, keys) to (Ev, queries). It does not check the shapes. '
  'The name opens the message where a value is not finite.';

create function sql_diffusion.scaled_dot_product_attention(query real[], key real[], value real[]) returns real[]
language sql immutable strict parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_tensor(query, 'scaled_dot_product_attention: query'),
         sql_diffusion.check_tensor(key, 'scaled_dot_product_attention: key'),
         sql_diffusion.check_tensor(value, 'scaled_dot_product_attention: value'),
         case when array_ndims(query) not between 2 and 4 then
           sql_diffusion.fail(format('scaled_dot_product_attention: query has shape %s, expected 2 to 4 dimensions (batch, heads, length, features), the first two optional',
                                     sql_diffusion.shape(query)))
         end;
  select case when (sql_diffusion.shape(key))[: array_ndims(key) - 2] is distinct from (sql_diffusion.shape(query))[: array_ndims(query) - 2]
                   or array_length(key, array_ndims(key)) <> array_length(query, array_ndims(query)) or array_ndims(key) <> array_ndims(query) then
           sql_diffusion.fail(format('scaled_dot_product_attention: key has shape %s, expected that of query, %s, but for the length',
                                     sql_diffusion.shape(key), sql_diffusion.shape(query)))
         end,
         case when (sql_diffusion.shape(value))[: array_ndims(value) - 1] <> (sql_diffusion.shape(key))[: array_ndims(key) - 1] or array_ndims(value) <> array_ndims(key) then
           sql_diffusion.fail(format('scaled_dot_product_attention: value has shape %s, expected that of key, %s, but for the features',
                                     sql_diffusion.shape(value), sql_diffusion.shape(key)))
         end,
         sql_diffusion.check_values(query, 'scaled_dot_product_attention: query'),
         sql_diffusion.check_values(key, 'scaled_dot_product_attention: key'),
         sql_diffusion.check_values(value, 'scaled_dot_product_attention: value');
  select sql_diffusion.with_shape(array_agg(output.element),
                                  (sql_diffusion.shape(query))[: array_ndims(query) - 1] || array_length(value, array_ndims(value)))
  from (select array_length(query, array_ndims(query) - 1) as queries,
               array_length(key, array_ndims(key) - 1) as keys,
               array_length(query, array_ndims(query)) as features,
               array_length(value, array_ndims(value)) as value_features offset 0) size,
       lateral (select (select array_agg(element) from (select unnest(query) as element) elements) as q,
                       (select array_agg(element) from (select unnest(key) as element) elements) as k,
                       (select array_agg(element) from (select unnest(value) as element) elements) as v offset 0) flat,
       lateral (
         select unnest(head.output) as element
         from (select sql_diffusion.transpose(sql_diffusion.attention_core(
                        sql_diffusion.transpose(sql_diffusion.fold(flat.q[h * queries * features + 1 : (h + 1) * queries * features], features)),
                        sql_diffusion.transpose(sql_diffusion.fold(flat.k[h * keys * features + 1 : (h + 1) * keys * features], features)),
                        sql_diffusion.transpose(sql_diffusion.fold(flat.v[h * keys * value_features + 1 : (h + 1) * keys * value_features], value_features)),
                        'scaled_dot_product_attention'
                      )) as output
               from generate_series(0, cardinality(query) / (queries * features) - 1) h) head) output;
end;
comment on function sql_diffusion.scaled_dot_product_attention(real[], real[], real[]) is
  'softmax(query key^T / sqrt(E)) value, Vaswani et al. 2017, equation 1: query (..., L, E), key (..., S, E), value (..., S, Ev) to (..., L, Ev), with up to two '
  'leading dimensions, the same in all three. torch.nn.functional.scaled_dot_product_attention, without a mask.';
-- Layers with their parameters: what torch.nn.Conv2d, Linear and GroupNorm are to their functions. The parameters are the row
-- of sql_diffusion.parameters with the module's key.

create function sql_diffusion.check_parameter(model text, component text, key text, name text) returns boolean
language sql stable parallel safe
return
  case when exists (select from sql_diffusion.parameters p
                    where p.model = check_parameter.model and p.component = check_parameter.component and p.key = check_parameter.key)
  then true
  else sql_diffusion.fail(format('%s: model %s has no parameter %s of component %s', name, coalesce(quote_ident(model), 'null'), coalesce(key, 'null'), coalesce(component, 'null')),
                          errcode => case when exists (select from sql_diffusion.models m where m.name = check_parameter.model) then '55000' else '42704' end)
  end;
comment on function sql_diffusion.check_parameter(text, text, text, text) is
  'Refuses a module that the model does not have. The name opens the message: "resnet_block".';

create type sql_diffusion.convolution as (
  layer            int,
  out_channels     int,
  taps             int,
  bias             real[],
  planes           numeric[],
  rest             numeric,
  unit             double precision,
  slots            int[],
  height           int,
  width            int,
  residual         real[],
  output_scale     double precision,
  shortcut_layer   int,
  shortcut_bias    real[],
  shortcut_planes  numeric[],
  shortcut_rest    numeric,
  shortcut_unit    double precision,
  shortcut_slots   int[]
);
comment on type sql_diffusion.convolution is
  'A convolution of which only the multiplications are still to be done: the packed layer, its output channels, the taps of its kernels (height * width), what is added to each output channel, '
  'what the input brings (conv2d_operands), the residual (out_channels, height * width) to be added, NULL for none, and the factor of the sum. The shortcut, where there is one, is a convolution of '
  '1x1 kernels that gives the residual.';

create function sql_diffusion.conv2d_prepared(
  input sql_diffusion.feature_maps, model text, component text, key text, stride int, padding int, name text, extra_bias real[] default null,
  norm sql_diffusion.normalization default null, residual real[] default null, output_scale double precision default 1, scale_factor int default 1,
  shortcut sql_diffusion.convolution default null
) returns setof sql_diffusion.convolution
language sql stable parallel safe rows 1
begin atomic
  select case when layer.ready then layer.packed end,
         layer.out_channels,
         layer.kernel_height * layer.kernel_width,
         layer.bias,
         ready.planes,
         ready.rest,
         ready.unit,
         ready.slots,
         ready.height,
         ready.width,
         residual,
         output_scale,
         (shortcut).layer,
         (shortcut).bias,
         (shortcut).planes,
         (shortcut).rest,
         (shortcut).unit,
         (shortcut).slots
  from (select case
               when p.out_channels is null
               then sql_diffusion.check_parameter(conv2d_prepared.model, conv2d_prepared.component, conv2d_prepared.key, name)
               when p.in_channels <> cardinality((input).mean)
               then sql_diffusion.fail(format('%s: input has %s channels, expected %s, as %s of shape %s takes', name,
                                              cardinality((input).mean), p.in_channels, conv2d_prepared.key, sql_diffusion.shape(p.weight)))
               else l.id is not null
                    and ((input).height * scale_factor + 2 * padding - p.kernel_height) / stride + 1
                        <= sql_diffusion.conv2d_rows((input).width * scale_factor, p.kernel_height, p.kernel_width, stride, padding)
               end as ready,
               p.out_channels,
               p.kernel_height,
               p.kernel_width,
               case when extra_bias is null then p.bias
                    when p.bias is null then extra_bias
                    else (select array_agg(pair.x + pair.y) from (select unnest(p.bias) as x, unnest(extra_bias) as y) pair)
               end as bias,
               l.id as packed,
               l.largest
        from (select w.weight,
                     w.bias,
                     array_length(w.weight, 1) as out_channels,
                     array_length(w.weight, 2) as in_channels,
                     coalesce(array_length(w.weight, 3), 1) as kernel_height,
                     coalesce(array_length(w.weight, 4), 1) as kernel_width
              from (select p.weight || '{}'::real[] as weight, p.bias
                    from (values (1)) one
                         left join sql_diffusion.parameters p
                         on p.model = conv2d_prepared.model and p.component = conv2d_prepared.component and p.key = conv2d_prepared.key
                    offset 0) w
              offset 0) p
             left join sql_diffusion.packed_layers l
             on l.model = conv2d_prepared.model and l.component = conv2d_prepared.component and l.key = conv2d_prepared.key
                and l.row_stride = sql_diffusion.conv2d_row_stride((input).width * scale_factor, p.kernel_width, padding)
        offset 0) layer
       left join lateral (select operands.planes, operands.rest, operands.unit, operands.slots, operands.height, operands.width
                          from sql_diffusion.conv2d_operands(input, layer.largest, norm, layer.kernel_height, layer.kernel_width, stride, padding, scale_factor,
                                                             name || ': the input of ' || key) operands
                          where layer.ready
                          offset 0) ready
       on true
  offset 0;
end;
comment on function sql_diffusion.conv2d_prepared(sql_diffusion.feature_maps, text, text, text, int, int, text, real[], sql_diffusion.normalization, real[], double precision, int, sql_diffusion.convolution) is
  'The convolution with the parameters of the module with this key, of this input, up to its multiplications; without a layer where the module is not packed for an image of this width. '
  'Arguments as for conv2d_module. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_packed(convolution sql_diffusion.convolution, first int, last int) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select array_agg(plane.pixels order by k.out_channel), (convolution).height, (convolution).width,
         array_agg(plane.mean order by k.out_channel), array_agg(plane.variance order by k.out_channel),
         array_agg(plane.low order by k.out_channel), array_agg(plane.high order by k.out_channel)
  from sql_diffusion.packed_kernels k
       left join lateral (select plane.pixels
                          from sql_diffusion.packed_kernels s,
                               sql_diffusion.conv2d_plane(s.kernels, (convolution).shortcut_planes, (convolution).shortcut_rest, (convolution).shortcut_unit,
                                                          (convolution).shortcut_slots, (convolution).shortcut_bias[s.out_channel], null, 1) plane
                          where s.layer = (convolution).shortcut_layer
                            and s.out_channel = k.out_channel
                          offset 0) shortcut
       on true
       cross join sql_diffusion.conv2d_plane(k.kernels, (convolution).planes, (convolution).rest, (convolution).unit, (convolution).slots,
                                             (convolution).bias[k.out_channel], coalesce(shortcut.pixels, (convolution).residual[k.out_channel:k.out_channel]),
                                             (convolution).output_scale) plane
  where k.layer = (convolution).layer
    and k.out_channel between first and last
  offset 0;
end;
comment on function sql_diffusion.conv2d_packed(sql_diffusion.convolution, int, int) is
  'The output channels first to last of a convolution. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.conv2d_packed_share(convolution sql_diffusion.convolution, first int, last int) returns sql_diffusion.feature_maps
language sql stable parallel safe cost 1000000
set jit = off
set enable_memoize = off
return (select maps from sql_diffusion.conv2d_packed(convolution, first, last) maps);
comment on function sql_diffusion.conv2d_packed_share(sql_diffusion.convolution, int, int) is 'conv2d_packed as a worker runs it.';

create function sql_diffusion.conv2d_packed_parallel(convolution sql_diffusion.convolution) returns table (share int, maps sql_diffusion.feature_maps)
language sql stable parallel safe rows 16
set jit = off
set plan_cache_mode = force_generic_plan
begin atomic
  select s.share, sql_diffusion.conv2d_packed_share(convolution, s.first, s.last) as maps
  from sql_diffusion.shares_of((convolution).out_channels) s;
end;
comment on function sql_diffusion.conv2d_packed_parallel(sql_diffusion.convolution) is
  'conv2d_packed of all output channels, by several processes where the server allows it (sql/parallel.sql).';

create function sql_diffusion.conv2d_nanoseconds(convolution sql_diffusion.convolution) returns bigint
language sql immutable parallel safe
return (convolution).out_channels
       * ((convolution).slots[cardinality((convolution).slots)] / 16 * cardinality((convolution).planes)::bigint * (9 + (convolution).taps) + cardinality((convolution).slots) * 250
          + coalesce((convolution).shortcut_slots[cardinality((convolution).shortcut_slots)] / 16 * cardinality((convolution).shortcut_planes)::bigint * 10
                     + cardinality((convolution).shortcut_slots) * 250, 0));
comment on function sql_diffusion.conv2d_nanoseconds(sql_diffusion.convolution) is
  'About the nanoseconds that the multiplications of a convolution take in one process: whether to start workers (worth_workers).';

create function sql_diffusion.conv2d_module(
  input sql_diffusion.feature_maps, model text, component text, key text, stride int, padding int, name text, extra_bias real[] default null,
  norm sql_diffusion.normalization default null, residual real[] default null, output_scale double precision default 1, scale_factor int default 1,
  shortcut sql_diffusion.convolution default null
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select case
               when prepared.layer is null
               then (select sql_diffusion.conv2d_core(case when scale_factor = 1 then input
                                                      else sql_diffusion.to_maps(sql_diffusion.interpolate_nearest(sql_diffusion.from_maps(input), scale_factor))
                                                      end,
                                                      p.weight, prepared.bias, stride, padding, name || ': the input of ' || key, norm,
                                                      coalesce(residual, (select maps.planes
                                                                          from sql_diffusion.conv2d_packed(shortcut, 1, (shortcut).out_channels) maps
                                                                          where (shortcut).layer is not null)), output_scale)
                     from (select p.weight || '{}'::real[] as weight
                           from sql_diffusion.parameters p
                           where p.model = conv2d_module.model and p.component = conv2d_module.component and p.key = conv2d_module.key
                           offset 0) p)
               when sql_diffusion.worth_workers(sql_diffusion.conv2d_nanoseconds(prepared))
               then (select row(sql_diffusion.array_cat_agg((c.maps).planes order by c.share), max((c.maps).height), max((c.maps).width),
                                sql_diffusion.array_cat_agg((c.maps).mean order by c.share), sql_diffusion.array_cat_agg((c.maps).variance order by c.share),
                                sql_diffusion.array_cat_agg((c.maps).low order by c.share), sql_diffusion.array_cat_agg((c.maps).high order by c.share))::sql_diffusion.feature_maps
                     from sql_diffusion.conv2d_packed_parallel(prepared) c)
               else (select maps from sql_diffusion.conv2d_packed(prepared, 1, prepared.out_channels) maps)
               end as maps
        from sql_diffusion.conv2d_prepared(input, model, component, key, stride, padding, name, extra_bias, norm, residual, output_scale, scale_factor, shortcut) prepared
        offset 0) done
  offset 0;
end;
comment on function sql_diffusion.conv2d_module(sql_diffusion.feature_maps, text, text, text, int, int, text, real[], sql_diffusion.normalization, real[], double precision, int, sql_diffusion.convolution) is
  'conv2d with the parameters of the module with this key, packed if they are. extra_bias, shape (out), is added to the module''s own; norm is done to the input first, and every pixel of it repeated '
  'scale_factor times down and across; the residual, (out, height * width), is added, or what a packed convolution, the shortcut, is going to give, and the sum multiplied by output_scale. A linear layer''s weight, shape (out, in), is applied to each pixel, as a '
  '1x1 kernel. The padding is smaller than the kernel. The name opens error messages. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.linear_module(input real[], model text, component text, key text, name text) returns real[]
language sql stable parallel safe
set jit = off
begin atomic
  select sql_diffusion.check_parameter(model, component, key, name);
  select case when array_length(input, array_ndims(input)) <> array_length(p.weight, 2) then
           sql_diffusion.fail(format('%s: the input of %s has shape %s, expected a last dimension of %s', name, key,
                                     sql_diffusion.shape(input), array_length(p.weight, 2)))
         end
  from sql_diffusion.parameters p
  where p.model = linear_module.model and p.component = linear_module.component and p.key = linear_module.key;
  select sql_diffusion.linear_core(input, p.weight || '{}'::real[], p.bias, name || ': the input of ' || key)
  from sql_diffusion.parameters p
  where p.model = linear_module.model and p.component = linear_module.component and p.key = linear_module.key;
end;
comment on function sql_diffusion.linear_module(real[], text, text, text, text) is
  'linear with the parameters of the module with this key. The name opens error messages.';

create function sql_diffusion.group_norm_of_module(
  input sql_diffusion.feature_maps, model text, component text, key text, num_groups int, eps double precision, with_silu boolean, name text, scale_shift real[] default null
) returns setof sql_diffusion.normalization
language sql stable parallel safe rows 1
begin atomic
  select (done.norm).scale, (done.norm).shift, (done.norm).size, (done.norm).with_silu
  from (select case
               when p.weight is null
               then sql_diffusion.check_parameter(group_norm_of_module.model, group_norm_of_module.component, group_norm_of_module.key, name)
               when size.channels <> array_length(p.weight, 1)
               then sql_diffusion.fail(format('%s: input has %s channels, expected %s, as %s takes', name, size.channels, array_length(p.weight, 1), group_norm_of_module.key))
               when num_groups is null or num_groups < 1 or size.channels % num_groups <> 0
               then sql_diffusion.fail(format('%s: num_groups is %s, expected a divisor of the %s channels of input', name, coalesce(num_groups::text, 'null'), size.channels))
               end as refused,
               p.weight,
               p.bias
        from (select cardinality((input).mean) as channels) size
             left join sql_diffusion.parameters p
             on p.model = group_norm_of_module.model and p.component = group_norm_of_module.component and p.key = group_norm_of_module.key
        offset 0) module,
       lateral (select case when scale_shift is null then module.weight else array_agg((w * (1 + scale))::real order by position) end as weight,
                       case when scale_shift is null then module.bias else array_agg((b * (1 + scale) + shift)::real order by position) end as bias
                from unnest(module.weight, module.bias, scale_shift[: array_length(module.weight, 1)], scale_shift[array_length(module.weight, 1) + 1 :])
                     with ordinality as channel (w, b, scale, shift, position)) affine,
       lateral (select sql_diffusion.group_norm_of_maps(input, num_groups, affine.weight, affine.bias, eps, with_silu) as norm
                where module.refused is null
                offset 0) done
  offset 0;
end;
comment on function sql_diffusion.group_norm_of_module(sql_diffusion.feature_maps, text, text, text, int, double precision, boolean, text, real[]) is
  'What group_norm, and silu after it where with_silu, with the parameters of the module with this key is to do to each channel of this input. scale_shift, shape (2 channels), multiplies the normalized '
  'channels by 1 + its first half and adds its second half. The name opens error messages. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.group_norm_module(
  input sql_diffusion.feature_maps, model text, component text, key text, num_groups int, eps double precision, with_silu boolean, name text
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from sql_diffusion.group_norm_of_module(input, model, component, key, num_groups, eps, with_silu, name) norm,
       lateral (select sql_diffusion.to_maps(sql_diffusion.group_norm_planes((input).planes, norm), (input).height, (input).width) as maps offset 0) done
  offset 0;
end;
comment on function sql_diffusion.group_norm_module(sql_diffusion.feature_maps, text, text, text, int, double precision, boolean, text) is
  'group_norm, and silu after it where with_silu, with the parameters of the module with this key. A set of one row, so that the planner puts the query in its place.';
create function sql_diffusion.resnet_block_of_maps(
  input sql_diffusion.feature_maps, temb real[], model text, key text, num_groups int, eps double precision, time_scale_shift text,
  output_scale_factor double precision, component text
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  -- Adding the time to every pixel of a channel is adding it to the channel's bias; with scale_shift it joins norm2's weight and bias.
  select second.planes, second.height, second.width, second.mean, second.variance, second.low, second.high
  from (select case when temb is not null
               then sql_diffusion.linear_module(sql_diffusion.silu(temb), model, component, key || '.time_emb_proj', 'resnet_block')
               end as features offset 0) projected
       left join lateral (select array_length(p.weight, 1) as channels,
                                 array_length(p.weight, 1) * case time_scale_shift when 'scale_shift' then 2 else 1 end as outputs
                          from sql_diffusion.parameters p
                          where p.model = resnet_block_of_maps.model and p.component = resnet_block_of_maps.component and p.key = resnet_block_of_maps.key || '.norm2') expected
       on true
       cross join lateral (select case
                                  when cardinality(projected.features) <> expected.outputs
                                  then array[sql_diffusion.fail(format('resnet_block: %s.time_emb_proj has %s outputs, expected %s for the %s channels of %s.norm2 and time_scale_shift %s',
                                                                       resnet_block_of_maps.key, cardinality(projected.features), expected.outputs, expected.channels,
                                                                       resnet_block_of_maps.key, time_scale_shift))::int]::real[]
                                  else projected.features
                                  end as features offset 0) time
       cross join sql_diffusion.group_norm_of_module(input, model, component, key || '.norm1', num_groups, eps, true, 'resnet_block') norm1
       cross join sql_diffusion.conv2d_module(input, model, component, key || '.conv1', 1, 1, 'resnet_block',
                                              extra_bias => case when time_scale_shift = 'default' then time.features end, norm => norm1) first
       cross join sql_diffusion.group_norm_of_module(first, model, component, key || '.norm2', num_groups, eps, true, 'resnet_block',
                                                     case when time_scale_shift = 'scale_shift' then time.features end) norm2
       cross join lateral (select exists (select from sql_diffusion.parameters p
                                          where p.model = resnet_block_of_maps.model and p.component = resnet_block_of_maps.component
                                            and p.key = resnet_block_of_maps.key || '.conv_shortcut') as exists offset 0) shortcut
       left join lateral (select convolution
                          from sql_diffusion.conv2d_prepared(input, model, component, key || '.conv_shortcut', 1, 0, 'resnet_block') convolution
                          where shortcut.exists
                          offset 0) packed
       on true
       left join lateral (select maps.planes
                          from sql_diffusion.conv2d_module(input, model, component, key || '.conv_shortcut', 1, 0, 'resnet_block') maps
                          where shortcut.exists and (packed.convolution).layer is null
                          offset 0) plain
       on true
       cross join sql_diffusion.conv2d_module(first, model, component, key || '.conv2', 1, 1, 'resnet_block', norm => norm2,
                                              residual => case when shortcut.exists then plain.planes else (input).planes end, shortcut => packed.convolution,
                                              output_scale => 1 / output_scale_factor) second
  offset 0;
end;
comment on function sql_diffusion.resnet_block_of_maps(sql_diffusion.feature_maps, real[], text, text, int, double precision, text, double precision, text) is
  'resnet_block of feature maps, without the checks of its settings. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.resnet_block(
  input real[],
  temb real[],
  model text,
  key text,
  num_groups int,
  eps double precision default 1e-5,
  time_scale_shift text default 'default',
  output_scale_factor double precision default 1,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
set join_collapse_limit = 1
begin atomic
  select sql_diffusion.check_tensor(input, 'resnet_block: input', 'channels, height, width'),
         case when temb is not null then sql_diffusion.check_tensor(temb, 'resnet_block: temb', 'features') end,
         case when time_scale_shift is null or time_scale_shift not in ('default', 'scale_shift') then
           sql_diffusion.fail(format('resnet_block: time_scale_shift is %s, expected default or scale_shift', coalesce(time_scale_shift, 'null')))
         end,
         case when output_scale_factor is null or not (abs(output_scale_factor) > 0 and abs(output_scale_factor) < 'infinity') then
           sql_diffusion.fail(format('resnet_block: output_scale_factor is %s, expected a finite number other than 0', coalesce(output_scale_factor::text, 'null')))
         end,
         case when eps is null or not (eps >= 0 and eps < 'infinity') then
           sql_diffusion.fail(format('resnet_block: eps is %s, expected a finite number of at least 0', coalesce(eps::text, 'null')))
         end,
         sql_diffusion.check_values(temb, 'resnet_block: temb');
  select sql_diffusion.from_maps(output)
  from (select sql_diffusion.to_maps(input) as maps offset 0) given,
       sql_diffusion.resnet_block_of_maps(given.maps, temb, model, key, num_groups, eps, time_scale_shift, output_scale_factor, component) output;
end;
comment on function sql_diffusion.resnet_block(real[], real[], text, text, int, double precision, text, double precision, text) is
  'Residual block, diffusers'' ResnetBlock2D: norm1, SiLU, conv1, the time embedding temb (features; NULL for none) through SiLU and time_emb_proj, norm2, SiLU, conv2, '
  'plus the input (through conv_shortcut where the model has one), divided by output_scale_factor. input (in, height, width), output (out, height, width); the parameters '
  'are those below the key. time_scale_shift: default adds the time before norm2, scale_shift scales and shifts after it.';
create function sql_diffusion.attention_heads(query real[], key real[], value real[], features int, first int, last int) returns real[]
language sql immutable parallel safe cost 1000000
set jit = off
return (
  select sql_diffusion.array_cat_agg(sql_diffusion.attention_core(query[(h - 1) * features + 1 : h * features],
                                                                  key[(h - 1) * features + 1 : h * features],
                                                                  value[(h - 1) * features + 1 : h * features], 'attention_block') order by h)
  from generate_series(first, last) h);
comment on function sql_diffusion.attention_heads(real[], real[], real[], int, int, int) is
  'Attention of the heads first to last, each so many features: query, key and value (channels, pixels) to (channels of these heads, pixels).';

create function sql_diffusion.attention_heads_packed(
  query sql_diffusion.convolution, key sql_diffusion.convolution, value sql_diffusion.convolution, features int, first int, last int
) returns real[]
language sql stable parallel safe cost 1000000
set jit = off
set enable_memoize = off
return (
  select sql_diffusion.attention_heads(q.planes, k.planes, v.planes, features, 1, last - first + 1)
  from sql_diffusion.conv2d_packed(query, (first - 1) * features + 1, last * features) q,
       sql_diffusion.conv2d_packed(attention_heads_packed.key, (first - 1) * features + 1, last * features) k,
       sql_diffusion.conv2d_packed(value, (first - 1) * features + 1, last * features) v);
comment on function sql_diffusion.attention_heads_packed(sql_diffusion.convolution, sql_diffusion.convolution, sql_diffusion.convolution, int, int, int) is
  'attention_heads of what three convolutions are going to give.';

create function sql_diffusion.attention_heads_parallel(
  query sql_diffusion.convolution, key sql_diffusion.convolution, value sql_diffusion.convolution, features int
) returns table (share int, planes real[])
language sql stable parallel safe rows 16
set jit = off
set plan_cache_mode = force_generic_plan
begin atomic
  select s.share,
         sql_diffusion.attention_heads_packed(query, attention_heads_parallel.key, value, features, s.first, s.last) as planes
  from sql_diffusion.shares_of((query).out_channels / features) s;
end;
comment on function sql_diffusion.attention_heads_parallel(sql_diffusion.convolution, sql_diffusion.convolution, sql_diffusion.convolution, int) is
  'attention_heads_packed of all heads, by several processes where the server allows it (sql/parallel.sql).';

create function sql_diffusion.attention_block_of_maps(
  input sql_diffusion.feature_maps, model text, key text, heads int, num_groups int, eps double precision, output_scale_factor double precision, component text
) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  -- Pixels are tokens: a linear layer of tokens is a 1x1 convolution of (channels, height, width), and a head is a run of channels.
  select output.planes, output.height, output.width, output.mean, output.variance, output.low, output.high
  from (select case when p.weight is not null and (heads is null or heads < 1 or array_length(p.weight, 1) % heads <> 0) then
                 sql_diffusion.fail(format('attention_block: heads is %s, expected a divisor of the %s outputs of %s.to_q', coalesce(heads::text, 'null'),
                                           array_length(p.weight, 1), attention_block_of_maps.key))
               end as refused
        from (values (1)) one
             left join sql_diffusion.parameters p
             on p.model = attention_block_of_maps.model and p.component = attention_block_of_maps.component and p.key = attention_block_of_maps.key || '.to_q'
        offset 0) heads_check
       left join lateral (select norm
                          from sql_diffusion.group_norm_of_module(input, model, component, key || '.group_norm', num_groups, eps, false, 'attention_block') norm
                          where num_groups is not null and heads_check.refused is null
                          offset 0) hidden
       on true
       cross join sql_diffusion.conv2d_prepared(input, model, component, key || '.to_q', 1, 0, 'attention_block', norm => hidden.norm) q
       cross join sql_diffusion.conv2d_prepared(input, model, component, key || '.to_k', 1, 0, 'attention_block', norm => hidden.norm) k
       cross join sql_diffusion.conv2d_prepared(input, model, component, key || '.to_v', 1, 0, 'attention_block', norm => hidden.norm) v
       cross join lateral (select case
                                  when q.layer is null or k.layer is null or v.layer is null
                                  then (select sql_diffusion.attention_heads(query.planes, keys.planes, value.planes, array_length(query.planes, 1) / heads, 1, heads)
                                        from sql_diffusion.conv2d_module(input, model, component, key || '.to_q', 1, 0, 'attention_block', norm => hidden.norm) query,
                                             sql_diffusion.conv2d_module(input, model, component, key || '.to_k', 1, 0, 'attention_block', norm => hidden.norm) keys,
                                             sql_diffusion.conv2d_module(input, model, component, key || '.to_v', 1, 0, 'attention_block', norm => hidden.norm) value)
                                  when sql_diffusion.worth_workers(heads * ((input).height * (input).width)::float8 ^ 2 * 1400 + 3 * sql_diffusion.conv2d_nanoseconds(q))
                                  then (select sql_diffusion.array_cat_agg(h.planes order by h.share)
                                        from sql_diffusion.attention_heads_parallel(q, k, v, q.out_channels / heads) h)
                                  else sql_diffusion.attention_heads_packed(q, k, v, q.out_channels / heads, 1, heads)
                                  end as planes offset 0) attended
       cross join lateral (select sql_diffusion.to_maps(attended.planes, (input).height, (input).width) as maps offset 0) described
       cross join sql_diffusion.conv2d_module(described.maps, model, component, key || '.to_out.0', 1, 0, 'attention_block', residual => (input).planes,
                                              output_scale => 1 / output_scale_factor) output
  offset 0;
end;
comment on function sql_diffusion.attention_block_of_maps(sql_diffusion.feature_maps, text, text, int, int, double precision, double precision, text) is
  'attention_block of feature maps, without the checks of its settings but for heads. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.attention_block(
  input real[],
  model text,
  key text,
  heads int,
  num_groups int default null,
  eps double precision default 1e-5,
  output_scale_factor double precision default 1,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
set join_collapse_limit = 1
begin atomic
  select sql_diffusion.check_tensor(input, 'attention_block: input', 'channels, height, width'),
         case when output_scale_factor is null or not (abs(output_scale_factor) > 0 and abs(output_scale_factor) < 'infinity') then
           sql_diffusion.fail(format('attention_block: output_scale_factor is %s, expected a finite number other than 0', coalesce(output_scale_factor::text, 'null')))
         end,
         case when eps is null or not (eps >= 0 and eps < 'infinity') then
           sql_diffusion.fail(format('attention_block: eps is %s, expected a finite number of at least 0', coalesce(eps::text, 'null')))
         end;
  select sql_diffusion.from_maps(output)
  from (select sql_diffusion.to_maps(input) as maps offset 0) given,
       sql_diffusion.attention_block_of_maps(given.maps, model, key, heads, num_groups, eps, output_scale_factor, component) output;
end;
comment on function sql_diffusion.attention_block(real[], text, text, int, int, double precision, double precision, text) is
  'Self-attention among the pixels with a residual, diffusers'' Attention: group_norm (none where num_groups is NULL), to_q, to_k and to_v, scaled_dot_product_attention '
  'in so many heads, to_out.0, plus the input, divided by output_scale_factor. input and output (channels, height, width); the parameters are those below the key.';
create function sql_diffusion.downsample_of_maps(input sql_diffusion.feature_maps, model text, key text, padding int, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from (select case when padding = 0
               then sql_diffusion.to_maps(sql_diffusion.pad(sql_diffusion.from_maps(input), 0, 1, 0, 1))
               else input
               end as maps offset 0) padded,
       sql_diffusion.conv2d_module(padded.maps, model, component, key || '.conv', 2, padding, 'downsample') maps
  offset 0;
end;
comment on function sql_diffusion.downsample_of_maps(sql_diffusion.feature_maps, text, text, int, text) is 'downsample of feature maps, without the check of its padding. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.downsample(
  input real[],
  model text,
  key text,
  padding int default 1,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
begin atomic
  select sql_diffusion.check_tensor(input, 'downsample: input', 'channels, height, width'),
         case when padding is null or padding not in (0, 1) then
           sql_diffusion.fail(format('downsample: padding is %s, expected 0 or 1', coalesce(padding::text, 'null')))
         end;
  select case when padding = 0 and least(array_length(input, 2), array_length(input, 3)) < 2 then
           sql_diffusion.fail(format('downsample: input has shape %s, expected at least 2 pixels in height and width with padding 0', sql_diffusion.shape(input)))
         end;
  select sql_diffusion.from_maps(output)
  from (select sql_diffusion.to_maps(input) as maps offset 0) given,
       sql_diffusion.downsample_of_maps(given.maps, model, key, padding, component) output;
end;
comment on function sql_diffusion.downsample(real[], text, text, int, text) is
  'Half the height and width, diffusers'' Downsample2D: the convolution KEY.conv with stride 2. Padding 1 pads all around, 0 only right and bottom. '
  'input and output (channels, height, width).';
create function sql_diffusion.upsample_of_maps(input sql_diffusion.feature_maps, model text, key text, component text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.conv2d_module(input, model, component, key || '.conv', 1, 1, 'upsample', scale_factor => 2) maps
  offset 0;
end;
comment on function sql_diffusion.upsample_of_maps(sql_diffusion.feature_maps, text, text, text) is 'upsample of feature maps. A set of one row, so that the planner puts the query in its place.';

create function sql_diffusion.upsample(
  input real[],
  model text,
  key text,
  component text default 'unet'
) returns real[]
language sql stable parallel safe
set jit = off
set enable_memoize = off
begin atomic
  select sql_diffusion.check_tensor(input, 'upsample: input', 'channels, height, width'),
         sql_diffusion.check_values(input, 'upsample: input');
  select sql_diffusion.from_maps(output)
  from (select sql_diffusion.to_maps(input) as maps offset 0) given,
       sql_diffusion.upsample_of_maps(given.maps, model, key, component) output;
end;
comment on function sql_diffusion.upsample(real[], text, text, text) is
  'Twice the height and width, diffusers'' Upsample2D: interpolate_nearest, then the 3x3 convolution KEY.conv. input and output (channels, height, width).';
-- UNet2DModel: a network is a query. From the configuration alone unet_plan derives the ordered steps of the network as
-- rows, and unet folds them over the sample. The architecture is that of Ho et al., Denoising Diffusion Probabilistic
-- Models (arXiv 2006.11239), appendix B, as diffusers writes it.

create type sql_diffusion.plan_step as (
  step          int,
  operation     text,
  key           text,
  pops          boolean,
  pushes        boolean,
  in_channels   int,
  out_channels  int,
  settings      jsonb
);
comment on type sql_diffusion.plan_step is
  'One step of a network: what to do (operation, a layer''s name), with which parameters (key, the module''s path), whether '
  'the top of the skip stack is popped and concatenated to the channels first, whether the output is pushed on it, the '
  'channels that go in and come out, and the layer''s further arguments by name (settings).';

-- ---------------------------------------------------------------------------------------------------------------------
-- The configuration
-- ---------------------------------------------------------------------------------------------------------------------

create function sql_diffusion.unet_config(config jsonb) returns jsonb
language sql immutable strict parallel safe
return case when jsonb_typeof(config) = 'object' then '{
    "_class_name": "UNet2DModel", "sample_size": null, "in_channels": 3, "out_channels": 3, "center_input_sample": false,
    "time_embedding_type": "positional", "time_embedding_dim": null, "freq_shift": 0, "flip_sin_to_cos": true,
    "down_block_types": ["DownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D", "AttnDownBlock2D"],
    "mid_block_type": "UNetMidBlock2D",
    "up_block_types": ["AttnUpBlock2D", "AttnUpBlock2D", "AttnUpBlock2D", "UpBlock2D"],
    "block_out_channels": [224, 448, 672, 896], "layers_per_block": 2, "mid_block_scale_factor": 1,
    "downsample_padding": 1, "downsample_type": "conv", "upsample_type": "conv", "dropout": 0, "act_fn": "silu",
    "attention_head_dim": 8, "norm_num_groups": 32, "attn_norm_num_groups": null, "norm_eps": 1e-5,
    "resnet_time_scale_shift": "default", "add_attention": true, "class_embed_type": null, "num_class_embeds": null,
    "num_train_timesteps": null
  }'::jsonb || config else config end;
comment on function sql_diffusion.unet_config(jsonb) is
  'A UNet2DModel configuration with the settings that it leaves out filled in as diffusers does.';

create function sql_diffusion.sample_shape(config jsonb) returns int[]
language sql immutable strict parallel safe
return case jsonb_typeof(config -> 'sample_size')
         when 'array' then array[(config ->> 'in_channels')::int, (config #>> '{sample_size,0}')::int, (config #>> '{sample_size,1}')::int]
         else array[(config ->> 'in_channels')::int, (config ->> 'sample_size')::int, (config ->> 'sample_size')::int]
       end;
comment on function sql_diffusion.sample_shape(jsonb) is
  'The shape (channels, height, width) of the samples of a network with this (complete) configuration.';

create function sql_diffusion.check_unet_config(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_settings('unet', sql_diffusion.unet_config(config), array[
           ['_class_name', '"UNet2DModel"', '$ == "UNet2DModel"'],
           ['in_channels', 'an integer from 1 to 4', '$ >= 1 && $ <= 4 && $.floor() == $'],
           ['out_channels', 'an integer from 1 to 4', '$ >= 1 && $ <= 4 && $.floor() == $'],
           ['center_input_sample', 'a boolean', '$ == true || $ == false'],
           ['time_embedding_type', '"positional"', '$ == "positional"'],
           ['time_embedding_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['freq_shift', 'a number', '$.type() == "number"'],
           ['flip_sin_to_cos', 'a boolean', '$ == true || $ == false'],
           ['block_out_channels', 'a list of positive integers',
             '$.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @))'],
           ['down_block_types', 'a list of DownBlock2D and AttnDownBlock2D',
             '$.type() == "array" && !exists($[*] ? (@ != "DownBlock2D" && @ != "AttnDownBlock2D"))'],
           ['mid_block_type', '"UNetMidBlock2D"', '$ == "UNetMidBlock2D"'],
           ['up_block_types', 'a list of UpBlock2D and AttnUpBlock2D',
             '$.type() == "array" && !exists($[*] ? (@ != "UpBlock2D" && @ != "AttnUpBlock2D"))'],
           ['layers_per_block', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['mid_block_scale_factor', 'a number other than 0', '$.type() == "number" && $ != 0'],
           ['downsample_padding', '0 or 1', '$ == 0 || $ == 1'],
           ['downsample_type', '"conv"', '$ == "conv"'],
           ['upsample_type', '"conv"', '$ == "conv"'],
           ['dropout', 'a number', '$.type() == "number"'],
           ['act_fn', '"silu"', '$ == "silu" || $ == "swish"'],
           ['attention_head_dim', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['norm_num_groups', 'a positive integer', '$ >= 1 && $.floor() == $'],
           ['attn_norm_num_groups', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['norm_eps', 'a positive number', '$ > 0'],
           ['resnet_time_scale_shift', '"default" or "scale_shift"', '$ == "default" || $ == "scale_shift"'],
           ['add_attention', 'a boolean', '$ == true || $ == false'],
           ['class_embed_type', 'null', '$ == null'],
           ['num_class_embeds', 'null', '$ == null'],
           ['sample_size', 'a positive integer or a pair of them (height, width)',
             '($.type() == "number" && $ >= 1 && $.floor() == $) || ($.type() == "array" && $.size() == 2 && !exists($[*] ? (@.type() != "number" || @ < 1 || @.floor() != @)))'],
           ['num_train_timesteps', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)']
         ]);
  with unknown as (
    select k.setting
    from jsonb_object_keys(config) as k (setting)
    where k.setting not like '\_%'
      and not sql_diffusion.unet_config('{}') ? k.setting
    order by k.setting
    limit 1
  )
  select coalesce((select sql_diffusion.fail(format('unet: setting %s is not known', u.setting), 'The reference tells which settings are supported.', '0A000') from unknown u), true);
end;
comment on function sql_diffusion.check_unet_config(jsonb) is
  'True for a UNet2DModel configuration whose every setting is supported; otherwise an error (0A000) that names the first that is not.';

create function sql_diffusion.check_unet_sizes(config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  with given as (
    select sql_diffusion.unet_config(config) as c
  ),
  size as (
    select c,
           jsonb_array_length(c -> 'block_out_channels') as levels,
           (c ->> 'norm_num_groups')::int as num_groups,
           (c ->> 'attn_norm_num_groups')::int as attention_groups,
           (c ->> 'attention_head_dim')::int as head_dim,
           (select sql_diffusion.sample_shape(c)) as shape
    from given
  ),
  level as (
    select b.channels::int as channels, b.number, c -> 'down_block_types' ->> (b.number::int - 1) like 'Attn%' or c -> 'up_block_types' ->> (levels - b.number::int) like 'Attn%' or (b.number = levels and (c ->> 'add_attention')::boolean) as attends
    from size, jsonb_array_elements_text(c -> 'block_out_channels') with ordinality as b (channels, number)
  ),
  problem (ordinal, message) as (
    select 1, format('unet: %s has %s elements, expected %s, one for each of block_out_channels', t.setting, jsonb_array_length(c -> t.setting), levels)
    from size, (values ('down_block_types'), ('up_block_types')) as t (setting)
    where jsonb_array_length(c -> t.setting) <> levels
    union all
    select 2, format('unet: out_channels is %s, expected the same as in_channels, %s', c -> 'out_channels', c -> 'in_channels')
    from size
    where c -> 'out_channels' <> c -> 'in_channels'
    union all
    select 3, format('unet: block_out_channels has %s, expected a multiple of norm_num_groups, %s', level.channels, num_groups)
    from size, level
    where level.channels % num_groups <> 0
    union all
    select 4, format('unet: block_out_channels has %s, expected a multiple of attn_norm_num_groups, %s', level.channels, attention_groups)
    from size, level
    where level.number = levels
      and (c ->> 'add_attention')::boolean
      and level.channels % attention_groups <> 0
    union all
    select 5, format('unet: attention_head_dim is %s, expected at most the %s channels that attend', head_dim, level.channels)
    from size, level
    where level.attends
      and level.channels < head_dim
    union all
    select 6, format('unet: sample_size is %s, expected multiples of %s, since the network halves it %s times', c -> 'sample_size', 1 << (levels - 1), levels - 1)
    from size
    where shape[2] % (1 << (levels - 1)) <> 0
       or shape[3] % (1 << (levels - 1)) <> 0
  ),
  first_problem as (
    select p.message
    from problem p
    order by p.ordinal, p.message
    limit 1
  )
  select coalesce((select sql_diffusion.fail(p.message, errcode => '0A000') from first_problem p), true);
end;
comment on function sql_diffusion.check_unet_sizes(jsonb) is
  'True for a supported configuration whose sizes fit each other (groups divide channels, halvings divide the sample, ...); otherwise an error (0A000) that names what does not.';

create function sql_diffusion.check_component(component text, config jsonb) returns boolean
language sql immutable parallel safe
return case
         when component is distinct from 'unet'
         then sql_diffusion.fail(format('component %s is not supported, expected unet', coalesce(component, 'null')), errcode => '0A000')
         when sql_diffusion.check_unet_config(config)
         then sql_diffusion.check_unet_sizes(config)
       end;
comment on function sql_diffusion.check_component(text, jsonb) is
  'True for a network that can be run, otherwise an error (0A000) that names the unsupported setting. The table components checks its rows with it.';

alter table sql_diffusion.components
  add constraint components_supported check (sql_diffusion.check_component(component, config));

-- ---------------------------------------------------------------------------------------------------------------------
-- The plan
-- ---------------------------------------------------------------------------------------------------------------------

create function sql_diffusion.unet_plan(config jsonb) returns setof sql_diffusion.plan_step
language sql immutable strict parallel safe rows 60
begin atomic
  with given as (
    select sql_diffusion.unet_config(config) as c
  ),
  -- Settings that every block shares, as the arguments of the layers' functions.
  shared as (
    select c,
           jsonb_array_length(c -> 'block_out_channels') as levels,
           (c ->> 'layers_per_block')::int as layers,
           jsonb_build_object(
             'num_groups', c -> 'norm_num_groups', 'eps', c -> 'norm_eps',
             'time_scale_shift', c -> 'resnet_time_scale_shift', 'output_scale_factor', 1) as resnet,
           jsonb_build_object('num_groups', c -> 'norm_num_groups', 'eps', c -> 'norm_eps', 'output_scale_factor', 1) as attention,
           jsonb_build_object('output_scale_factor', c -> 'mid_block_scale_factor') as mid,
           -- A middle block of scale_shift normalises before attention only where it is told to.
           jsonb_build_object('num_groups',
             case when c ->> 'attn_norm_num_groups' is not null then c -> 'attn_norm_num_groups'
                  when c ->> 'resnet_time_scale_shift' = 'default' then c -> 'norm_num_groups'
                  else 'null' end) as mid_attention
    from given
  ),
  -- Level 0 is the finest; attention_head_dim null means one head over all the channels.
  level as (
    select b.number::int - 1 as level,
           b.channels::int as channels,
           b.channels::int / coalesce((c ->> 'attention_head_dim')::int, b.channels::int) as heads
    from shared, jsonb_array_elements_text(c -> 'block_out_channels') with ordinality as b (channels, number)
  ),
  down_block as (
    select own.level as block,
           t.type like 'Attn%' as attends,
           coalesce(finer.channels, own.channels) as in_channels,
           own.channels as out_channels,
           own.heads,
           own.level < levels - 1 as samples
    from shared,
         level own
         left join level finer on finer.level = own.level - 1,
         jsonb_array_elements_text(c -> 'down_block_types') with ordinality as t (type, number)
    where t.number - 1 = own.level
  ),
  up_block as (
    select levels - 1 - own.level as block,
           t.type like 'Attn%' as attends,
           coalesce(coarser.channels, own.channels) as in_channels,
           own.channels as out_channels,
           coalesce(finer.channels, own.channels) as last_skip_channels,
           own.heads,
           own.level > 0 as samples
    from shared,
         level own
         left join level coarser on coarser.level = own.level + 1
         left join level finer on finer.level = own.level - 1,
         jsonb_array_elements_text(c -> 'up_block_types') with ordinality as t (type, number)
    where t.number - 1 = levels - 1 - own.level
  ),
  -- Every step, with its place in the order: stage, block, layer, part.
  step (stage, block, layer, part, operation, key, pops, pushes, in_channels, out_channels, settings) as (
    select 0, 0, 0, 0, 'time_embedding', 'time_embedding', false, false, finest.channels, coalesce((c ->> 'time_embedding_dim')::int, 4 * finest.channels),
           jsonb_build_object('embedding_dim', finest.channels, 'flip_sin_to_cos', c -> 'flip_sin_to_cos', 'downscale_freq_shift', c -> 'freq_shift')
    from shared, level finest
    where finest.level = 0
    union all
    select 1, 0, 0, 0, 'center_input_sample', null, false, false, (c ->> 'in_channels')::int, (c ->> 'in_channels')::int, '{}'
    from shared
    where (c ->> 'center_input_sample')::boolean
    union all
    select 2, 0, 0, 0, 'conv2d', 'conv_in', false, true, (c ->> 'in_channels')::int, finest.channels, '{"stride": 1, "padding": 1}'
    from shared, level finest
    where finest.level = 0

    union all
    select 3, b.block, layer, 0, 'resnet_block', format('down_blocks.%s.resnets.%s', b.block, layer), false, not b.attends,
           case layer when 0 then b.in_channels else b.out_channels end, b.out_channels, resnet
    from shared, down_block b, generate_series(0, layers - 1) as layer
    union all
    select 3, b.block, layer, 1, 'attention_block', format('down_blocks.%s.attentions.%s', b.block, layer), false, true,
           b.out_channels, b.out_channels, attention || jsonb_build_object('heads', b.heads)
    from shared, down_block b, generate_series(0, layers - 1) as layer
    where b.attends
    union all
    select 3, b.block, layers, 2, 'downsample', format('down_blocks.%s.downsamplers.0', b.block), false, true,
           b.out_channels, b.out_channels, jsonb_build_object('padding', c -> 'downsample_padding')
    from shared, down_block b
    where b.samples

    union all
    select 4, 0, layer, 0, 'resnet_block', format('mid_block.resnets.%s', layer), false, false,
           coarsest.channels, coarsest.channels, resnet || mid
    from shared, level coarsest, generate_series(0, 1) as layer
    where coarsest.level = levels - 1
    union all
    select 4, 0, 0, 1, 'attention_block', 'mid_block.attentions.0', false, false,
           coarsest.channels, coarsest.channels, attention || mid || mid_attention || jsonb_build_object('heads', coarsest.heads)
    from shared, level coarsest
    where coarsest.level = levels - 1
      and (c ->> 'add_attention')::boolean

    union all
    select 5, b.block, layer, 0, 'resnet_block', format('up_blocks.%s.resnets.%s', b.block, layer), true, false,
           case layer when 0 then b.in_channels else b.out_channels end + case layer when layers then b.last_skip_channels else b.out_channels end,
           b.out_channels, resnet
    from shared, up_block b, generate_series(0, layers) as layer
    union all
    select 5, b.block, layer, 1, 'attention_block', format('up_blocks.%s.attentions.%s', b.block, layer), false, false,
           b.out_channels, b.out_channels, attention || jsonb_build_object('heads', b.heads)
    from shared, up_block b, generate_series(0, layers) as layer
    where b.attends
    union all
    select 5, b.block, layers + 1, 2, 'upsample', format('up_blocks.%s.upsamplers.0', b.block), false, false,
           b.out_channels, b.out_channels, '{}'
    from shared, up_block b
    where b.samples

    union all
    select 6, 0, 0, 0, 'group_norm_silu', 'conv_norm_out', false, false, finest.channels, finest.channels,
           jsonb_build_object('num_groups', c -> 'norm_num_groups', 'eps', c -> 'norm_eps')
    from shared, level finest
    where finest.level = 0
    union all
    select 7, 0, 0, 0, 'conv2d', 'conv_out', false, false, finest.channels, (c ->> 'out_channels')::int, '{"stride": 1, "padding": 1}'
    from shared, level finest
    where finest.level = 0
  )
  select row_number() over place as step, s.operation, s.key, s.pops, s.pushes, s.in_channels, s.out_channels, s.settings
  from step s
  window place as (order by s.stage, s.block, s.layer, s.part)
  order by step;
end;
comment on function sql_diffusion.unet_plan(jsonb) is
  'The ordered steps of the network of this configuration (of a UNet2DModel), one row a step: read it as a table. Both backends run it.';

create function sql_diffusion.component_config(model text, component text default 'unet') returns jsonb
language sql stable parallel safe
begin atomic
  select case
           when model is null
           then sql_diffusion.fail('model is null, expected the name of a model')
           when not exists (select from sql_diffusion.models m where m.name = component_config.model)
           then sql_diffusion.fail(format('model "%s" does not exist', model),
                                   'The models that are loaded: select name from sql_diffusion.models.', '42704')
           when not exists (select from sql_diffusion.components c where c.model = component_config.model and c.component = component_config.component)
           then sql_diffusion.fail(format('model "%s" is unfinished: component %s is missing', model, component),
                                   'Load the model again.', '55000')
         end;
  select c.config
  from sql_diffusion.components c
  where c.model = component_config.model
    and c.component = component_config.component;
end;
comment on function sql_diffusion.component_config(text, text) is
  'The configuration of a network of a model. Errors: 42704 for an unknown model, 55000 where the model lacks the network.';

create function sql_diffusion.unet_plan(model text) returns setof sql_diffusion.plan_step
language sql stable parallel safe rows 60
return sql_diffusion.unet_plan(sql_diffusion.component_config(model));
comment on function sql_diffusion.unet_plan(text) is
  'The ordered steps of a loaded model''s U-Net, one row a step. Errors: 42704 for an unknown model, 55000 for one without a U-Net.';

create function sql_diffusion.unet_parameters(config jsonb) returns table (key text, weight_shape int[], bias_shape int[])
language sql immutable strict parallel safe rows 200
begin atomic
  with plan as (
    select p.operation, p.key, p.in_channels as i, p.out_channels as o, p.settings, t.out_channels as temb, p.step,
           -- the width of all heads together, attention's inner dimension
           i.channels / h.dim * h.dim as inner_channels
    from sql_diffusion.unet_plan(config) p,
         (select e.out_channels from sql_diffusion.unet_plan(config) e where e.operation = 'time_embedding') t,
         lateral (select p.in_channels as channels) i,
         lateral (select coalesce((sql_diffusion.unet_config(config) ->> 'attention_head_dim')::int, p.in_channels) as dim) h
  )
  select case when m.suffix = '' then p.key else p.key || '.' || m.suffix end, m.weight_shape, array[m.weight_shape[1]]
  from plan p,
       lateral (
         values
           ('conv2d', '', array[o, i, 3, 3], true),
           ('group_norm_silu', '', array[i], true),
           ('time_embedding', 'linear_1', array[o, i], true),
           ('time_embedding', 'linear_2', array[o, o], true),
           ('downsample', 'conv', array[o, i, 3, 3], true),
           ('upsample', 'conv', array[o, i, 3, 3], true),
           ('resnet_block', 'norm1', array[i], true),
           ('resnet_block', 'conv1', array[o, i, 3, 3], true),
           ('resnet_block', 'time_emb_proj', array[case p.settings ->> 'time_scale_shift' when 'scale_shift' then 2 * o else o end, temb], true),
           ('resnet_block', 'norm2', array[o], true),
           ('resnet_block', 'conv2', array[o, o, 3, 3], true),
           ('resnet_block', 'conv_shortcut', array[o, i, 1, 1], i <> o),
           ('attention_block', 'group_norm', array[i], p.settings ->> 'num_groups' is not null),
           ('attention_block', 'to_q', array[inner_channels, i], true),
           ('attention_block', 'to_k', array[inner_channels, i], true),
           ('attention_block', 'to_v', array[inner_channels, i], true),
           ('attention_block', 'to_out.0', array[i, inner_channels], true)
       ) as m (operation, suffix, weight_shape, present)
  where m.operation = p.operation
    and m.present
  order by p.step;
end;
comment on function sql_diffusion.unet_parameters(jsonb) is
  'The parameters that a U-Net of this configuration must have: one row a module, its key and the shapes of its weight and bias.';

create function sql_diffusion.check_model(model text) returns boolean
language sql stable parallel safe
begin atomic
  with problem as (
    select coalesce(expected.key, p.key) as key,
           case
             when p.key is null then 'is missing'
             when expected.key is null then 'is surplus'
             when array_dims(p.weight) is distinct from expected.weight_dims
             then format('has a weight of shape %s, expected %s', coalesce(array_dims(p.weight), '{}'), expected.weight_dims)
             when array_dims(p.bias) is distinct from expected.bias_dims
             then format('has a bias of shape %s, expected %s', coalesce(array_dims(p.bias), 'null'), expected.bias_dims)
           end as message
    from (
        select e.key,
               (select string_agg(format('[1:%s]', n.n), '' order by n.ordinality) from unnest(e.weight_shape) with ordinality n (n)) as weight_dims,
               (select string_agg(format('[1:%s]', n.n), '' order by n.ordinality) from unnest(e.bias_shape) with ordinality n (n)) as bias_dims
        from sql_diffusion.unet_parameters(sql_diffusion.component_config(model)) e
      ) expected
      full join (
        select s.key, s.weight, s.bias
        from sql_diffusion.parameters s
        where s.model = check_model.model
          and s.component = 'unet'
      ) p on p.key = expected.key
  ),
  found as (
    select b.key, b.message, count(*) over () as problems
    from problem b
    where b.message is not null
    order by b.key
    limit 1
  )
  select coalesce(
    (select sql_diffusion.fail(
              format('model "%s" is unfinished: parameter %s %s', model, f.key, f.message)
              || case when f.problems > 1 then format(', and %s more', f.problems - 1) else '' end,
              'Load the model again.', '55000')
     from found f),
    true);
end;
comment on function sql_diffusion.check_model(text) is
  'True for a model whose parameters are those that its configuration asks for; otherwise an error (55000) that names the first missing, surplus or misshapen one.';

-- ---------------------------------------------------------------------------------------------------------------------
-- The run
-- ---------------------------------------------------------------------------------------------------------------------

create function sql_diffusion.time_embedding(timestep double precision, model text, key text, embedding_dim int,
    flip_sin_to_cos boolean, downscale_freq_shift double precision, component text default 'unet') returns real[]
language sql stable strict parallel safe
return sql_diffusion.linear_module(
         sql_diffusion.silu(
           sql_diffusion.linear_module(
             sql_diffusion.timestep_embedding(timestep, embedding_dim, flip_sin_to_cos, downscale_freq_shift),
             model, component, key || '.linear_1', 'time_embedding')),
         model, component, key || '.linear_2', 'time_embedding');
comment on function sql_diffusion.time_embedding(double precision, text, text, int, boolean, double precision, text) is
  'How far the diffusion has come, as the network is told it: timestep_embedding, then linear_1, SiLU and linear_2 of the module. '
  'Returns (time embedding channels), which every resnet_block takes. Denoising Diffusion Probabilistic Models (arXiv 2006.11239), appendix B.';

create function sql_diffusion.run_step(step sql_diffusion.plan_step, hidden sql_diffusion.feature_maps, temb real[], model text) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.conv2d_module(hidden, model, 'unet', (step).key, ((step).settings ->> 'stride')::int, ((step).settings ->> 'padding')::int, 'unet') maps
  where (step).operation = 'conv2d'
  union all
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.resnet_block_of_maps(hidden, temb, model, (step).key, ((step).settings ->> 'num_groups')::int, ((step).settings ->> 'eps')::double precision,
                                          (step).settings ->> 'time_scale_shift', ((step).settings ->> 'output_scale_factor')::double precision, 'unet') maps
  where (step).operation = 'resnet_block'
  union all
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.attention_block_of_maps(hidden, model, (step).key, ((step).settings ->> 'heads')::int, ((step).settings ->> 'num_groups')::int,
                                             ((step).settings ->> 'eps')::double precision, ((step).settings ->> 'output_scale_factor')::double precision, 'unet') maps
  where (step).operation = 'attention_block'
  union all
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.downsample_of_maps(hidden, model, (step).key, ((step).settings ->> 'padding')::int, 'unet') maps
  where (step).operation = 'downsample'
  union all
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.upsample_of_maps(hidden, model, (step).key, 'unet') maps
  where (step).operation = 'upsample'
  union all
  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high
  from sql_diffusion.group_norm_module(hidden, model, 'unet', (step).key, ((step).settings ->> 'num_groups')::int, ((step).settings ->> 'eps')::double precision, true, 'unet') maps
  where (step).operation = 'group_norm_silu'
  union all
  select (done.maps).planes, (done.maps).height, (done.maps).width, (done.maps).mean, (done.maps).variance, (done.maps).low, (done.maps).high
  from (select sql_diffusion.to_maps(sql_diffusion.fold(array_agg(2::real * element.x - 1::real), (hidden).height * (hidden).width), (hidden).height, (hidden).width) as maps
        from (select unnest((hidden).planes) as x) element
        offset 0) done
  where (step).operation = 'center_input_sample'
  union all
  select (hidden).planes, (hidden).height, (hidden).width, (hidden).mean, (hidden).variance, (hidden).low, (hidden).high
  where (step).operation = 'time_embedding';
end;
comment on function sql_diffusion.run_step(sql_diffusion.plan_step, sql_diffusion.feature_maps, real[], text) is
  'Runs one step of a plan: feature maps and the time embedding go in, the step''s output comes out. The step time_embedding leaves them as they are. '
  'A set of one row, so that the planner puts the queries of all layers in its place, once for a pass.';

create function sql_diffusion.run_plan(plan sql_diffusion.plan_step[], sample real[], timestep double precision, model text)
  returns table (step int, operation text, key text, hidden sql_diffusion.feature_maps)
language sql stable parallel safe rows 60
set jit = off
set enable_memoize = off                            -- which would hash and keep every tensor
set join_collapse_limit = 1                         -- the layers run in the order in which they stand
set work_mem = '64MB'                               -- so that no tensor goes to a file on its way to the next step
set plan_cache_mode = force_generic_plan           -- or PostgreSQL 18 plans every layer for the arguments that came
begin atomic
  with recursive
  temb as materialized (
    select sql_diffusion.time_embedding(timestep, model, p.key, (p.settings ->> 'embedding_dim')::int,
                                        (p.settings ->> 'flip_sin_to_cos')::boolean, (p.settings ->> 'downscale_freq_shift')::double precision) as value
    from unnest(plan) p
    where p.operation = 'time_embedding'
  ),
  run (step, operation, key, hidden, skips) as (
    select 0, null::text, null::text, sql_diffusion.to_maps(sample), '{}'::sql_diffusion.feature_maps[]
    union all
    select p.step, p.operation, p.key, output.hidden,
           case when p.pushes then taken.skips || output.hidden else taken.skips end
    from run
         join lateral unnest(plan[run.step + 1 : run.step + 1]) p on true,
         temb,
         lateral (
           select case when p.pops then sql_diffusion.join_maps(run.hidden, run.skips[cardinality(run.skips)]) else run.hidden end as hidden,
                  case when p.pops then trim_array(run.skips, 1) else run.skips end as skips
           offset 0
         ) taken,
         lateral (
           select o as hidden
           from sql_diffusion.run_step(p, taken.hidden, temb.value, model) o
           offset 0
         ) output
  )
  select r.step, r.operation, r.key, r.hidden
  from run r
  where r.step > 0;
end;
comment on function sql_diffusion.run_plan(sql_diffusion.plan_step[], real[], double precision, text) is
  'Folds the steps of a plan over a sample (channels, height, width): each row is a step''s output, the feature maps that it leaves for the next one. '
  'The skip stack is an array beside it.';

create function sql_diffusion.check_sample(sample real[], name text, config jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, name, 'channels, height, width'),
         sql_diffusion.check_values(sample, name);
  with size as (
    select (sql_diffusion.unet_config(config) ->> 'in_channels')::int as channels,
           1 << (jsonb_array_length(sql_diffusion.unet_config(config) -> 'block_out_channels') - 1) as factor
  )
  select case
           when array_length(sample, 1) <> channels
           then sql_diffusion.fail(format('%s has %s channels, expected %s', name, array_length(sample, 1), channels))
           when array_length(sample, 2) % factor <> 0 or array_length(sample, 3) % factor <> 0
           then sql_diffusion.fail(format('%s is %s high and %s wide, expected multiples of %s', name, array_length(sample, 2), array_length(sample, 3), factor))
           else true
         end
  from size;
end;
comment on function sql_diffusion.check_sample(real[], text, jsonb) is
  'True for a tensor (channels, height, width) that the U-Net of this configuration takes, otherwise an error (22023) that calls it by this name.';

create function sql_diffusion.run_unet(sample real[], timestep double precision, model text)
  returns table (step int, operation text, key text, hidden sql_diffusion.feature_maps)
language sql stable parallel safe rows 60
begin atomic
  select sql_diffusion.check_model(model);
  select sql_diffusion.check_sample(sample, 'unet: sample', sql_diffusion.component_config(model)),
         case
           when timestep is null or not abs(timestep) <= 3.4e38
           then sql_diffusion.fail(format('unet: timestep is %s, expected a finite number of single precision', coalesce(timestep::text, 'null')))
         end;
  select r.step, r.operation, r.key, r.hidden
  from sql_diffusion.run_plan((select array_agg(p order by p.step) from sql_diffusion.unet_plan(model) p), sample, timestep, model) r;
end;
comment on function sql_diffusion.run_unet(real[], double precision, text) is
  'unet_steps with feature maps, as they go from step to step.';

create function sql_diffusion.unet_steps(sample real[], timestep double precision, model text)
  returns table (step int, operation text, key text, hidden real[])
language sql stable parallel safe rows 60
begin atomic
  select r.step, r.operation, r.key, sql_diffusion.from_maps(r.hidden)
  from sql_diffusion.run_unet(sample, timestep, model) r;
end;
comment on function sql_diffusion.unet_steps(real[], double precision, text) is
  'A pass of a model''s U-Net, one row a step with its output, so that every hidden tensor can be looked at. The last row is what unet returns.';

create function sql_diffusion.unet(sample real[], timestep double precision, model text) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.from_maps(r.hidden)
  from sql_diffusion.run_unet(sample, timestep, model) r
  order by r.step desc
  limit 1;
end;
comment on function sql_diffusion.unet(real[], double precision, text) is
  'What a model''s U-Net makes of a sample (channels, height, width) at a timestep (0 to the training steps less one): a tensor of the same shape, '
  'the noise it sees in it where the model predicts epsilon. Errors: 42704 unknown model, 55000 unfinished model, 22023 wrong sample. '
  'Denoising Diffusion Probabilistic Models (arXiv 2006.11239), section 3.2.';
-- Packing a model: every convolution of its plan, for the width of image that it meets there.

create function sql_diffusion.unet_convolutions(model text) returns table (key text, row_stride int)
language sql stable strict parallel safe
begin atomic
  select convolution.key,
         sql_diffusion.conv2d_row_stride(convolution.width, coalesce(array_length(p.weight, 4), 1), (convolution.kernel_size - 1) / 2) as row_stride
  from (select (sql_diffusion.sample_shape(sql_diffusion.unet_config(c.config)))[3] as width
        from sql_diffusion.components c
        where c.model = unet_convolutions.model
          and c.component = 'unet') sample,
       lateral (select s.operation,
                       s.key,
                       (sample.width >> (count(*) filter (where s.operation = 'downsample') over before)::int)
                                     << (count(*) filter (where s.operation = 'upsample') over before)::int as width
                from sql_diffusion.unet_plan(model) s
                window before as (order by s.step rows between unbounded preceding and 1 preceding)) step,
       lateral (values ('conv2d', '', 1, 3),
                       ('resnet_block', '.conv1', 1, 3),
                       ('resnet_block', '.conv2', 1, 3),
                       ('resnet_block', '.conv_shortcut', 1, 1),
                       ('attention_block', '.to_q', 1, 1),
                       ('attention_block', '.to_k', 1, 1),
                       ('attention_block', '.to_v', 1, 1),
                       ('attention_block', '.to_out.0', 1, 1),
                       ('downsample', '.conv', 1, 3),
                       ('upsample', '.conv', 2, 3)) module (operation, suffix, scale, kernel_size),
       lateral (select step.key || module.suffix as key, step.width * module.scale as width, module.kernel_size) convolution,
       sql_diffusion.parameters p
  where module.operation = step.operation
    and p.model = unet_convolutions.model
    and p.component = 'unet'
    and p.key = convolution.key;
end;
comment on function sql_diffusion.unet_convolutions(text) is
  'The modules of a model''s U-Net that run as convolutions, each with the slots from row to row of a kernel for the image that it meets.';

create function sql_diffusion.pack(model text) returns bigint
language sql volatile strict parallel unsafe
set jit = off
begin atomic
  select sql_diffusion.check_model(model);
  delete from sql_diffusion.packed_layers l
  where l.model = pack.model;
  -- The lock keeps a weight from being replaced between being read here and being seen as packed by the trigger.
  insert into sql_diffusion.packed_layers (model, component, key, row_stride, largest)
  select p.model, p.component, p.key, c.row_stride, sql_diffusion.conv2d_largest(p.weight || '{}'::real[])
  from sql_diffusion.unet_convolutions(pack.model) c,
       sql_diffusion.parameters p
  where p.model = pack.model
    and p.component = 'unet'
    and p.key = c.key
  for share of p;
  insert into sql_diffusion.packed_kernels (layer, out_channel, kernels)
  select l.id, k.out_channel, k.kernels
  from sql_diffusion.packed_layers l
       join sql_diffusion.parameters p on (p.model, p.component, p.key) = (l.model, l.component, l.key),
       sql_diffusion.conv2d_kernels(p.weight || '{}'::real[], l.largest, l.row_stride) k
  where l.model = pack.model;
  select count(*)
  from sql_diffusion.packed_layers l
  where l.model = pack.model;
end;
comment on function sql_diffusion.pack(text) is
  'Packs the kernels of a model''s U-Net, which makes every later pass in pure SQL faster, and returns the number of layers packed. Worth it for a model that runs more than '
  'once or twice; about ten times the room of its parameters. Only the owner of the tables can. It lasts until the parameters are changed or removed; a dump leaves it out.';
-- Schedulers, apart from networks: the schedule as rows, one update a step.
--
-- DDPM: Denoising Diffusion Probabilistic Models (Ho et al., arXiv 2006.11239).
-- DDIM: Denoising Diffusion Implicit Models (Song et al., arXiv 2010.02502).
--
-- In both, one step is the same linear form. The network's output and the sample give a guess of the picture without noise,
--   pred_original_sample = clip(original_from_sample * sample + original_from_output * model_output)
-- and the step goes from there to a sample with a little less noise:
--   prev_sample = original_coefficient * pred_original_sample + sample_coefficient * sample
--               + output_coefficient * model_output + noise_coefficient * noise
-- so that a schedule is a table of coefficients, and the samplers differ in what they put into it. Coefficients are computed in
-- single precision, operation by operation as torch does: near the end of a schedule 1 - alpha_cumprod keeps few digits.

create type sql_diffusion.schedule_step as (
  step                  int,
  timestep              int,
  previous_timestep     int,
  original_from_sample  real,
  original_from_output  real,
  clip_range            real,
  original_coefficient  real,
  sample_coefficient    real,
  output_coefficient    real,
  noise_coefficient     real,
  draws_noise           boolean
);
comment on type sql_diffusion.schedule_step is
  'One step of a schedule: its number from 1, the timestep that the network is told, the one the step leads to (below 0: the finished picture), and the '
  'coefficients of the update (see scheduler_step). clip_range NULL: no clipping. draws_noise: whether fresh noise is drawn from the stream.';

create function sql_diffusion.scheduler_config(config jsonb) returns jsonb
language sql immutable strict parallel safe
return case when jsonb_typeof(config) = 'object' then '{
    "num_train_timesteps": 1000, "beta_start": 0.0001, "beta_end": 0.02, "beta_schedule": "linear", "trained_betas": null,
    "variance_type": "fixed_small", "clip_sample": true, "clip_sample_range": 1, "prediction_type": "epsilon", "thresholding": false,
    "dynamic_thresholding_ratio": 0.995, "sample_max_value": 1, "timestep_spacing": "leading", "steps_offset": 0,
    "rescale_betas_zero_snr": false, "set_alpha_to_one": true
  }'::jsonb || config else config end;
comment on function sql_diffusion.scheduler_config(jsonb) is
  'A DDPMScheduler or DDIMScheduler configuration with the settings that it leaves out filled in as diffusers does.';

create function sql_diffusion.scheduler_name(scheduler text) returns text
language sql immutable parallel safe
begin atomic
  with given as (
    select lower(regexp_replace(scheduler, 'Scheduler$', '')) as name
  )
  select case
           when given.name in ('ddpm', 'ddim') then given.name
           when not sql_diffusion.fail(format('scheduler is %s, expected ddpm or ddim', coalesce(quote_literal(scheduler), 'null'))) then null
         end
  from given;
end;
comment on function sql_diffusion.scheduler_name(text) is
  'ddpm or ddim, of a scheduler''s short name or its class (DDPMScheduler, DDIMScheduler); an error (22023) for anything else.';

create function sql_diffusion.check_scheduler(config jsonb) returns boolean
language sql immutable parallel safe
return sql_diffusion.check_settings('scheduler', sql_diffusion.scheduler_config(config), array[
           ['_class_name', '"DDPMScheduler" or "DDIMScheduler"', '$ == "DDPMScheduler" || $ == "DDIMScheduler"'],
           ['num_train_timesteps', 'an integer from 1 to 100000', '$ >= 1 && $ <= 100000 && $.floor() == $'],
           ['beta_schedule', '"linear", "scaled_linear", "squaredcos_cap_v2" or "sigmoid"',
             '$ == "linear" || $ == "scaled_linear" || $ == "squaredcos_cap_v2" || $ == "sigmoid"'],
           ['beta_start', 'a number above 0 and below 1', '$ > 0 && $ < 1'],
           ['beta_end', 'a number above 0 and below 1', '$ > 0 && $ < 1'],
           ['trained_betas', 'null', '$ == null'],
           ['variance_type', '"fixed_small", "fixed_small_log", "fixed_large" or "fixed_large_log"',
             '$ == "fixed_small" || $ == "fixed_small_log" || $ == "fixed_large" || $ == "fixed_large_log"'],
           ['clip_sample', 'a boolean', '$ == true || $ == false'],
           ['clip_sample_range', 'a positive number', '$ > 0'],
           ['prediction_type', '"epsilon", "sample" or "v_prediction"', '$ == "epsilon" || $ == "sample" || $ == "v_prediction"'],
           ['thresholding', 'false', '$ == false'],
           ['timestep_spacing', '"leading", "trailing" or "linspace"', '$ == "leading" || $ == "trailing" || $ == "linspace"'],
           ['steps_offset', 'an integer from 0 to 100000', '$ >= 0 && $ <= 100000 && $.floor() == $'],
           ['rescale_betas_zero_snr', 'false', '$ == false'],
           ['set_alpha_to_one', 'a boolean', '$ == true || $ == false']
         ]);
comment on function sql_diffusion.check_scheduler(jsonb) is
  'True for a scheduler''s configuration whose every setting is supported, otherwise an error (0A000) that names the first that is not. The table models checks its rows with it.';

create function sql_diffusion.check_pipeline(pipeline text) returns boolean
language sql immutable parallel safe
return case
         when pipeline in ('DDPMPipeline', 'DDIMPipeline') then true
         else sql_diffusion.fail(format('pipeline %s is not supported, expected DDPMPipeline or DDIMPipeline', coalesce(pipeline, 'null')), errcode => '0A000')
       end;
comment on function sql_diffusion.check_pipeline(text) is 'True for a pipeline''s class that can be run, otherwise an error (0A000).';

create function sql_diffusion.check_defaults(defaults jsonb) returns boolean
language sql immutable parallel safe
begin atomic
  select case
           when not defaults <@ jsonb_build_object('scheduler', defaults -> 'scheduler', 'num_inference_steps', defaults -> 'num_inference_steps', 'timesteps', defaults -> 'timesteps')
           then sql_diffusion.fail(format('defaults is %s, expected an object of scheduler, num_inference_steps and timesteps', defaults), errcode => '0A000')
         end;
  select sql_diffusion.check_settings('defaults', '{"scheduler": null, "num_inference_steps": null, "timesteps": null}' || defaults, array[
           ['scheduler', '"ddpm", "ddim" or null', '$ == null || $ == "ddpm" || $ == "ddim"'],
           ['num_inference_steps', 'a positive integer or null', '$ == null || ($ >= 1 && $.floor() == $)'],
           ['timesteps', 'a list of integers or null', '$ == null || ($.type() == "array" && $.size() > 0 && !exists($[*] ? (@.type() != "number" || @ < 0 || @.floor() != @)))']
         ]);
end;
comment on function sql_diffusion.check_defaults(jsonb) is
  'True for a model''s default schedule, otherwise an error (0A000) that names what is wrong. The table models checks its rows with it.';

alter table sql_diffusion.models
  add constraint models_pipeline_supported check (sql_diffusion.check_pipeline(pipeline)),
  add constraint models_scheduler_supported check (sql_diffusion.check_scheduler(scheduler)),
  add constraint models_defaults_supported check (sql_diffusion.check_defaults(defaults));

create aggregate sql_diffusion.product (double precision) (
  sfunc = float8mul,
  stype = double precision,
  initcond = '1',
  parallel = safe
);
comment on aggregate sql_diffusion.product (double precision) is 'The product of numbers, in the order of the rows.';

create function sql_diffusion.linspace(first double precision, last double precision, steps int) returns table (i int, value real)
language sql immutable strict parallel safe rows 1000
begin atomic
  -- The upper half is counted from the end, in single precision, as torch.linspace does.
  select i, case when i = 0 or i < steps / 2 then first::real + width.step * i::real
                 else last::real - width.step * (steps - 1 - i)::real end
  from generate_series(0, steps - 1) as i,
       (select case when steps > 1 then (last::real - first::real) / (steps - 1)::real else 0::real end as step) width
  order by i;
end;
comment on function sql_diffusion.linspace(double precision, double precision, int) is
  'torch.linspace in single precision: steps numbers evenly spaced from first to last, numbered from 0.';

create function sql_diffusion.noise_schedule(config jsonb) returns table (timestep int, beta real, alpha_cumprod real)
language sql immutable strict parallel safe rows 1000
begin atomic
  select sql_diffusion.check_scheduler(config);
  with setting as (
    select (c ->> 'num_train_timesteps')::int as steps,
           c ->> 'beta_schedule' as kind,
           (c ->> 'beta_start')::double precision as beta_start,
           (c ->> 'beta_end')::double precision as beta_end
    from sql_diffusion.scheduler_config(config) as c
  ),
  betas (timestep, beta) as (
    select line.i, line.value
    from setting s, sql_diffusion.linspace(s.beta_start, s.beta_end, s.steps) line
    where s.kind = 'linear'
    union all
    select line.i, line.value * line.value
    from setting s, sql_diffusion.linspace(sqrt(s.beta_start), sqrt(s.beta_end), s.steps) line
    where s.kind = 'scaled_linear'
    union all
    -- Improved Denoising Diffusion Probabilistic Models (arXiv 2102.09672), equation 17: alpha_cumprod falls as a squared cosine.
    select t, least(1 - cos(((t + 1) / s.steps::double precision + 0.008) / 1.008 * pi() / 2) ^ 2
                      / cos((t / s.steps::double precision + 0.008) / 1.008 * pi() / 2) ^ 2, 0.999)::real
    from setting s, generate_series(0, s.steps - 1) as t
    where s.kind = 'squaredcos_cap_v2'
    union all
    -- GeoDiff (arXiv 2203.02923): beta rises as a sigmoid.
    select line.i, (1 / (1 + exp(-line.value::double precision)))::real * (s.beta_end - s.beta_start)::real + s.beta_start::real
    from setting s, sql_diffusion.linspace(-6, 6, s.steps) line
    where s.kind = 'sigmoid'
  )
  select b.timestep, b.beta, (sql_diffusion.product((1::real - b.beta)::double precision) over (order by b.timestep))::real
  from betas b
  order by b.timestep;
end;
comment on function sql_diffusion.noise_schedule(jsonb) is
  'The noise that training added, of a scheduler''s configuration: for each timestep its beta (the variance of the noise added there) and alpha_cumprod, the share of the '
  'picture''s variance that is left, the product of 1 - beta up to there. Denoising Diffusion Probabilistic Models (arXiv 2006.11239), equations 2 and 4.';

create function sql_diffusion.check_timesteps(config jsonb, num_inference_steps int, timesteps int[], eta real) returns boolean
language sql immutable parallel safe
begin atomic
  with setting as (
    select (sql_diffusion.scheduler_config(config) ->> 'num_train_timesteps')::int as train_steps
  )
  select case
           when num_inference_steps is not null and timesteps is not null
           then sql_diffusion.fail('num_inference_steps and timesteps are both given, expected one of them')
           when num_inference_steps is null and timesteps is null
           then sql_diffusion.fail('num_inference_steps and timesteps are both null, expected one of them')
           when num_inference_steps not between 1 and s.train_steps
           then sql_diffusion.fail(format('num_inference_steps is %s, expected from 1 to %s, the training steps', num_inference_steps, s.train_steps))
           when timesteps is not null and array_ndims(timesteps) is distinct from 1
           then sql_diffusion.fail(format('timesteps has %s dimensions, expected 1', coalesce(array_ndims(timesteps), 0)))
           when array_position(timesteps, null) is not null
           then sql_diffusion.fail('timesteps has a null element')
           when exists (select from unnest(timesteps) t where t not between 0 and s.train_steps - 1)
           then sql_diffusion.fail(format('timesteps has %s, expected from 0 to %s',
                                                     (select t from unnest(timesteps) t where t not between 0 and s.train_steps - 1 limit 1), s.train_steps - 1))
           when exists (select from (select t.t, lag(t.t) over (order by t.ordinality) as before from unnest(timesteps) with ordinality t (t)) pair where pair.t >= pair.before)
           then sql_diffusion.fail(format('timesteps is %s, expected descending numbers', timesteps))
           when eta is null or not eta between 0 and 1
           then sql_diffusion.fail(format('eta is %s, expected from 0 to 1', coalesce(eta::text, 'null')))
           else true
         end
  from setting s;
end;
comment on function sql_diffusion.check_timesteps(jsonb, int, int[], real) is
  'True for steps that a schedule can be made of, otherwise an error (22023) that names the argument.';

create function sql_diffusion.inference_timesteps(config jsonb, num_inference_steps int) returns table (step int, timestep int)
language sql immutable strict parallel safe rows 50
begin atomic
  select sql_diffusion.check_scheduler(config),
         sql_diffusion.check_timesteps(config, num_inference_steps, null, 0::real);
  with setting as (
    select (c ->> 'num_train_timesteps')::int as train_steps,
           c ->> 'timestep_spacing' as spacing,
           (c ->> 'steps_offset')::int as steps_offset,
           (c ->> 'num_train_timesteps')::double precision / num_inference_steps as ratio
    from sql_diffusion.scheduler_config(config) as c
  )
  select i + 1,
         case s.spacing
           when 'leading' then (num_inference_steps - 1 - i) * (s.train_steps / num_inference_steps) + s.steps_offset
           when 'linspace' then
             round((num_inference_steps - 1 - i) * ((s.train_steps - 1) / greatest(num_inference_steps - 1, 1)::double precision))::int
           -- numpy.arange takes the difference of its first two values for its step.
           when 'trailing' then round(s.train_steps + i * (s.train_steps - s.ratio - s.train_steps))::int - 1
         end
  from setting s, generate_series(0, num_inference_steps - 1) as i
  order by i;
end;
comment on function sql_diffusion.inference_timesteps(jsonb, int) is
  'The timesteps that num_inference_steps of sampling visit, highest first, by the configuration''s timestep_spacing. '
  'Common Diffusion Noise Schedules and Sample Steps are Flawed (arXiv 2305.08891), table 2.';

create function sql_diffusion.scheduler_timesteps(config jsonb, scheduler text, num_inference_steps int default null, timesteps int[] default null, eta real default 0)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  select sql_diffusion.check_scheduler(config),
         sql_diffusion.check_timesteps(config, num_inference_steps, timesteps, eta);
  with setting as materialized (
    select sql_diffusion.scheduler_name(scheduler) as sampler,
           c ->> 'prediction_type' as prediction_type,
           c ->> 'variance_type' as variance_type,
           (c ->> 'num_train_timesteps')::int as train_steps,
           case when (c ->> 'clip_sample')::boolean then (c ->> 'clip_sample_range')::real end as clip_range,
           (c ->> 'set_alpha_to_one')::boolean as set_alpha_to_one
    from sql_diffusion.scheduler_config(config) as c
  ),
  noise as materialized (
    select n.timestep, n.alpha_cumprod
    from sql_diffusion.noise_schedule(config) n
  ),
  visited (step, timestep) as (
    select v.step, v.timestep
    from sql_diffusion.inference_timesteps(config, num_inference_steps) v
    union all
    select t.ordinality::int, t.t
    from unnest(timesteps) with ordinality t (t)
  ),
  checked as (
    select v.step, v.timestep,
           -- DDIM steps down by a fixed stride where it is given a number of steps; otherwise a step leads to the next in the list.
           case when s.sampler = 'ddim' and timesteps is null then v.timestep - s.train_steps / num_inference_steps
                else lead(v.timestep, 1, -1) over (order by v.step) end as previous_timestep,
           case when v.timestep >= s.train_steps
                then sql_diffusion.fail(format('scheduler: steps_offset leads to timestep %s, expected at most %s', v.timestep, s.train_steps - 1), errcode => '0A000') end
    from visited v, setting s
  ),
  -- Ho et al. section 2 with alpha_prod for the paper's alpha-bar and beta_prod for one less it. Below timestep 0 lies the picture, alpha-bar 1.
  alphas as (
    select v.step, v.timestep, v.previous_timestep, s.sampler, s.prediction_type, s.variance_type, s.clip_range,
           a.alpha_prod, p.alpha_prod_prev,
           1::real - a.alpha_prod as beta_prod,
           1::real - p.alpha_prod_prev as beta_prod_prev,
           a.alpha_prod / p.alpha_prod_prev as alpha,
           1::real - a.alpha_prod / p.alpha_prod_prev as beta
    from checked v,
         setting s,
         lateral (select n.alpha_cumprod as alpha_prod from noise n where n.timestep = v.timestep) a,
         lateral (
           select coalesce(
             (select n.alpha_cumprod from noise n where n.timestep = v.previous_timestep),
             (select n.alpha_cumprod from noise n where n.timestep = 0 and s.sampler = 'ddim' and not s.set_alpha_to_one),
             1::real) as alpha_prod_prev
         ) p
  ),
  roots as (
    select a.step, a.timestep, a.previous_timestep, a.sampler, a.prediction_type, a.variance_type, a.clip_range, a.beta_prod, a.beta_prod_prev, a.alpha, a.beta,
           sqrt(a.alpha_prod)::real as sqrt_alpha_prod,
           sqrt(a.beta_prod)::real as sqrt_beta_prod,
           sqrt(a.alpha_prod_prev)::real as sqrt_alpha_prod_prev,
           -- the variance of the posterior, Ho et al. equation 7; DDIM equation 16 has the same
           a.beta_prod_prev / a.beta_prod * a.beta as variance
    from alphas a
  ),
  direction as (
    select r.step, r.timestep, r.previous_timestep, r.sampler, r.prediction_type, r.variance_type, r.clip_range, r.beta_prod, r.beta_prod_prev, r.alpha, r.beta,
           r.sqrt_alpha_prod, r.sqrt_beta_prod, r.sqrt_alpha_prod_prev, r.variance, noise.sigma,
           -- the length of DDIM's "direction pointing to x_t", equation 12
           sqrt(greatest(r.beta_prod_prev - noise.sigma * noise.sigma, 0::real))::real as length
    from roots r,
         lateral (select eta * sqrt(r.variance)::real as sigma) noise
  )
  select d.step, d.timestep, d.previous_timestep,
         -- Ho et al. equation 15; Progressive Distillation (arXiv 2202.00512) appendix D for v.
         case d.prediction_type when 'epsilon' then 1::real / d.sqrt_alpha_prod when 'sample' then 0::real when 'v_prediction' then d.sqrt_alpha_prod end,
         case d.prediction_type when 'epsilon' then -d.sqrt_beta_prod / d.sqrt_alpha_prod when 'sample' then 1::real when 'v_prediction' then -d.sqrt_beta_prod end,
         d.clip_range,
         -- DDPM: the posterior's mean, Ho et al. equation 7. DDIM: equation 12, with the noise written through sample and output.
         case d.sampler when 'ddpm' then d.sqrt_alpha_prod_prev * d.beta / d.beta_prod else d.sqrt_alpha_prod_prev end,
         case when d.sampler = 'ddpm' then sqrt(d.alpha)::real * d.beta_prod_prev / d.beta_prod
              when d.prediction_type = 'epsilon' then 0::real
              when d.prediction_type = 'sample' then d.length / d.sqrt_beta_prod
              when d.prediction_type = 'v_prediction' then d.length * d.sqrt_beta_prod end,
         case when d.sampler = 'ddpm' then 0::real
              when d.prediction_type = 'epsilon' then d.length
              when d.prediction_type = 'sample' then -d.length * d.sqrt_alpha_prod / d.sqrt_beta_prod
              when d.prediction_type = 'v_prediction' then d.length * d.sqrt_alpha_prod end,
         case when d.sampler = 'ddim' then d.sigma
              when d.timestep = 0 then 0::real
              when d.variance_type like 'fixed_small%' then sqrt(greatest(d.variance, 1e-20::real))::real
              when d.variance_type like 'fixed_large%' then sqrt(d.beta)::real end,
         case d.sampler when 'ddpm' then d.timestep > 0 else eta > 0 end
  from direction d
  order by d.step;
end;
comment on function sql_diffusion.scheduler_timesteps(jsonb, text, int, int[], real) is
  'The schedule of a sampler (ddpm or ddim) with a scheduler''s configuration, for a number of steps or for explicit timesteps (descending): one row a step. '
  'eta (0 to 1) is the share of fresh noise in DDIM; DDPM ignores it. Errors: 22023 for wrong steps, 0A000 for an unsupported setting.';

create function sql_diffusion.scheduler_step(model_output real[], sample real[], noise real[], step sql_diffusion.schedule_step,
    out prev_sample real[], out pred_original_sample real[])
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, 'scheduler_step: sample'),
         sql_diffusion.check_tensor(model_output, 'scheduler_step: model_output'),
         sql_diffusion.check_same_shape(model_output, sample, 'scheduler_step: model_output', 'sample'),
         case when coalesce(abs((step).original_from_sample)::double precision + abs((step).original_from_output) + abs((step).original_coefficient) + abs((step).sample_coefficient)
                            + abs((step).output_coefficient) + abs((step).noise_coefficient), 'infinity') >= 'infinity'
                   or (step).draws_noise is null or not coalesce((step).clip_range >= 0, true) then
           sql_diffusion.fail(format('scheduler_step: step is %s, expected a row of scheduler_timesteps', coalesce(step::text, 'null')))
         end;
  select case when (step).draws_noise then sql_diffusion.check_tensor(noise, 'scheduler_step: noise') end,
         case when (step).draws_noise then sql_diffusion.check_same_shape(noise, sample, 'scheduler_step: noise', 'sample') end,
         sql_diffusion.check_values(sample, 'scheduler_step: sample'),
         sql_diffusion.check_values(model_output, 'scheduler_step: model_output'),
         case when (step).draws_noise then sql_diffusion.check_values(noise, 'scheduler_step: noise') end;
  with element as (
    select unnest(sample) as x,
           unnest(model_output) as output,
           unnest(case when (step).draws_noise then noise else array_fill(0::real, array[cardinality(sample)]) end) as noise
  ),
  guess as (
    select e.x, e.output, e.noise,
           -- Clipping keeps the guess in the range of pictures; least and greatest pass over a NULL range.
           greatest(least((step).original_from_sample::double precision * e.x + (step).original_from_output::double precision * e.output, (step).clip_range), -(step).clip_range) as original
    from element e
  ),
  updated as (
    select array_agg(g.original::real) as original,
           array_agg(((step).original_coefficient * g.original
                                 + (step).sample_coefficient::double precision * g.x
                                 + (step).output_coefficient::double precision * g.output
                                 + (step).noise_coefficient::double precision * g.noise)::real) as prev
    from guess g
  )
  select sql_diffusion.with_shape(u.prev, sql_diffusion.shape(sample)), sql_diffusion.with_shape(u.original, sql_diffusion.shape(sample))
  from updated u;
end;
comment on function sql_diffusion.scheduler_step(real[], real[], real[], sql_diffusion.schedule_step) is
  'One update of a sampler: from the network''s output, the sample and fresh noise (all of one shape; noise may be NULL where the step draws none) to the sample of the '
  'previous timestep, and the guess of the picture without noise. Ho et al. (arXiv 2006.11239) equations 7 and 15; Song et al. (arXiv 2010.02502) equation 12.';

create function sql_diffusion.training_timestep(model text, timestep int) returns sql_diffusion.schedule_step
language sql stable parallel safe
begin atomic
  select sql_diffusion.component_config(model);
  select s
  from sql_diffusion.models m,
       lateral sql_diffusion.scheduler_timesteps(m.scheduler, 'ddpm', timesteps => array[timestep]) s
  where m.name = training_timestep.model;
end;
comment on function sql_diffusion.training_timestep(text, int) is
  'The step from one timestep of a model''s training straight to the picture. Errors: 42704 unknown model, 22023 for a timestep outside the training steps.';

create function sql_diffusion.add_noise(original real[], noise real[], timestep int, model text) returns real[]
language sql stable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(original, 'add_noise: original'),
         sql_diffusion.check_tensor(noise, 'add_noise: noise'),
         sql_diffusion.check_same_shape(noise, original, 'add_noise: noise', 'original'),
         sql_diffusion.check_values(original, 'add_noise: original'),
         sql_diffusion.check_values(noise, 'add_noise: noise'),
         sql_diffusion.training_timestep(model, timestep);
  select sql_diffusion.with_shape(
           (select array_agg((sqrt(n.alpha_cumprod)::real * e.original + sqrt(1::real - n.alpha_cumprod)::real * e.noise)::real)
            from (select unnest(original) as original, unnest(noise) as noise) e),
           sql_diffusion.shape(original))
  from sql_diffusion.models m,
       lateral sql_diffusion.noise_schedule(m.scheduler) n
  where m.name = add_noise.model
    and n.timestep = add_noise.timestep;
end;
comment on function sql_diffusion.add_noise(real[], real[], int, text) is
  'The forward process in one go: a picture (values -1 to 1) after the noising of this timestep (0 to the training steps less one), with noise of the same shape. '
  'The reparameterization trick: Ho et al. (arXiv 2006.11239), equation 4.';

create function sql_diffusion.predict_original_sample(model_output real[], sample real[], timestep int, model text) returns real[]
language sql stable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, 'predict_original_sample: sample');
  select (sql_diffusion.scheduler_step(model_output, sample, array_fill(0::real, sql_diffusion.shape(sample)),
                                       sql_diffusion.training_timestep(model, timestep))).pred_original_sample;
end;
comment on function sql_diffusion.predict_original_sample(real[], real[], int, text) is
  'The guess of the picture without noise, in one step, from the network''s output for a sample at a timestep; clipped where the scheduler clips. '
  'Ho et al. (arXiv 2006.11239), equation 15.';
-- The pipelines: noise, then the network and one update of the sampler for each step of the schedule.

create function sql_diffusion.default_model() returns text
language sql stable parallel safe
return coalesce(nullif(current_setting('sql_diffusion.model', true), ''),
                (select m.name from sql_diffusion.models m where m.bundled));
comment on function sql_diffusion.default_model() is 'The model that is used where none is named: the setting sql_diffusion.model, else the bundled one.';

create function sql_diffusion.generation_schedule(model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0) returns setof sql_diffusion.schedule_step
language sql stable parallel safe rows 50
begin atomic
  select sql_diffusion.component_config(model);
  with chosen as (
    select m.scheduler as config,
           m.defaults,
           sql_diffusion.scheduler_name(coalesce(generation_schedule.scheduler, m.defaults ->> 'scheduler', m.scheduler ->> '_class_name')) as sampler,
           -- The model's own number of steps is for its own sampler.
           num_inference_steps is null and timesteps is null
             and (generation_schedule.scheduler is null or sql_diffusion.scheduler_name(generation_schedule.scheduler) = sql_diffusion.scheduler_name(coalesce(m.defaults ->> 'scheduler', m.scheduler ->> '_class_name')))
             and (m.defaults ? 'num_inference_steps' or m.defaults ? 'timesteps') as by_default
    from sql_diffusion.models m
    where m.name = generation_schedule.model
  )
  select s
  from chosen c,
       lateral (
         select case when c.by_default then (c.defaults ->> 'num_inference_steps')::int
                     when num_inference_steps is null and timesteps is null then case c.sampler when 'ddpm' then 1000 else 50 end
                     else num_inference_steps end as count,
                case when c.by_default then (select array_agg(t.t::int order by t.ordinality) from jsonb_array_elements_text(c.defaults -> 'timesteps') with ordinality t (t))
                     else timesteps end as list
       ) steps,
       lateral sql_diffusion.scheduler_timesteps(c.config, c.sampler, steps.count, steps.list, eta) s
  order by s.step;
end;
comment on function sql_diffusion.generation_schedule(text, int, int[], text, real) is
  'The schedule that ddpm_generate follows with these arguments: the model''s default where neither steps nor timesteps are given, else diffusers'' (1000 steps of ddpm, 50 of ddim).';

create function sql_diffusion.denormalize(sample real[]) returns real[]
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_tensor(sample, 'denormalize: sample'),
         sql_diffusion.check_values(sample, 'denormalize: sample');
  select sql_diffusion.with_shape(array_agg(greatest(least(element.x / 2::real + 0.5::real, 1::real), 0::real)), sql_diffusion.shape(sample))
  from (select unnest(sample) as x) element;
end;
comment on function sql_diffusion.denormalize(real[]) is 'A picture (values 0 to 1) of a finished sample (values -1 to 1): halved, shifted and clipped. Any shape.';

create function sql_diffusion.ddpm_steps(seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0)
  returns table (step int, timestep int, sample real[], pred_original_sample real[])
language sql stable parallel safe rows 50
begin atomic
  with recursive
  ready as materialized (
    select case when seed is null then sql_diffusion.fail('seed is null, expected an integer') end as seed_is_given,
           sql_diffusion.check_model(model) as model_is_whole
  ),
  -- Made once: what stays the same from step to step.
  plan as materialized (
    select array_agg(p order by p.step) as steps
    from ready, sql_diffusion.unet_plan(model) p
  ),
  schedule as materialized (
    select s.step, s as this
    from ready, sql_diffusion.generation_schedule(model, num_inference_steps, timesteps, scheduler, eta) s
  ),
  run (step, timestep, sample, pred_original_sample, generator) as (
    select 0, null::int, noise.sample, null::real[], noise.next
    from ready, sql_diffusion.randn(sql_diffusion.manual_seed(seed), sql_diffusion.sample_shape(sql_diffusion.unet_config(sql_diffusion.component_config(model)))) noise
    union all
    select s.step, (s.this).timestep, updated.prev_sample, updated.pred_original_sample, coalesce(noise.next, run.generator)
    from run
         join schedule s on s.step = run.step + 1,
         plan,
         lateral (
           select sql_diffusion.from_maps(u.hidden) as model_output
           from sql_diffusion.run_plan(plan.steps, run.sample, (s.this).timestep, model) u
           order by u.step desc
           limit 1
         ) network,
         lateral (
           select n.sample, n.next
           from (values (run.generator)) stream (generator)
                left join lateral sql_diffusion.randn(stream.generator, sql_diffusion.shape(run.sample)) n on (s.this).draws_noise
         ) noise,
         lateral sql_diffusion.scheduler_step(network.model_output, run.sample, noise.sample, s.this) updated
  )
  select r.step, r.timestep, r.sample, r.pred_original_sample
  from run r
  where r.step > 0;
end;
comment on function sql_diffusion.ddpm_steps(bigint, text, int, int[], text, real) is
  'Sampling in pure SQL, one row a step as it is done: the sample that the step leads to and the guess of the finished one (channels, height, width, values about -1 to 1). '
  'Ho et al. (arXiv 2006.11239), algorithm 2; Song et al. (arXiv 2010.02502), equation 12.';

create function sql_diffusion.ddpm_generate(seed bigint, model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0) returns real[]
language sql stable parallel safe
begin atomic
  select sql_diffusion.denormalize(s.sample)
  from sql_diffusion.ddpm_steps(seed, model, num_inference_steps, timesteps, scheduler, eta) s
  order by s.step desc
  limit 1;
end;
comment on function sql_diffusion.ddpm_generate(bigint, text, int, int[], text, real) is
  'A picture (channels, height, width, values 0 to 1) in pure SQL: the last of ddpm_steps.';

create function sql_diffusion.ddpm_generate(seeds bigint[], model text, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0) returns table (seed bigint, image real[])
language sql stable parallel safe rows 10
begin atomic
  select s.seed, sql_diffusion.ddpm_generate(s.seed, model, num_inference_steps, timesteps, scheduler, eta)
  from unnest(seeds) with ordinality s (seed)
  order by s.ordinality;
end;
comment on function sql_diffusion.ddpm_generate(bigint[], text, int, int[], text, real) is
  'One row (seed, image) a seed, in their order, each picture the one made alone.';
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

create function sql_diffusion.image_bytes(image real[]) returns table (y int, x int, channel int, byte int)
language sql immutable parallel safe
begin atomic
  -- The product is rounded to real before the half goes to the even neighbour: so do NumPy and diffusers.
  select
    (v.place / d.width % d.height)::int,
    (v.place % d.width)::int,
    (v.place / d.width / d.height)::int,
    round((greatest(0::real, least(1::real, v.value)) * 255::real)::double precision)::int
  from (select array_length(image_bytes.image, 2) as height, array_length(image_bytes.image, 3) as width offset 0) d,      -- once, not for each value
    lateral (select u.value, u.ordinality - 1 as place from unnest(image_bytes.image) with ordinality as u (value)) v;
end;
comment on function sql_diffusion.image_bytes(real[]) is
  'The samples of an image as a picture file holds them: one row a value, counted from 0; byte is round(255 x) after x was clamped to 0..1, halves to the even number.';

-- PNG (ISO/IEC 15948): a signature, then chunks.

create function sql_diffusion.adler32(bytes bytea) returns bigint
language sql immutable strict parallel safe
begin atomic
  -- RFC 1950: one sum of the bytes, and one of that sum's values, in which a byte counts once for itself and once for each byte behind it
  select (65536 * ((length(adler32.bytes) + coalesce(sum((length(adler32.bytes) - b.i)::bigint * get_byte(adler32.bytes, b.i)), 0)) % 65521)
    + (1 + coalesce(sum(get_byte(adler32.bytes, b.i)), 0)) % 65521)::bigint
  from generate_series(0, length(adler32.bytes) - 1) as b (i);
end;
comment on function sql_diffusion.adler32(bytea) is 'The checksum of zlib, RFC 1950: 0 .. 4294967295.';

create function sql_diffusion.crc32(bytes bytea) returns bigint
language sql immutable strict parallel safe
begin atomic
  -- The bits are the coefficients of one long polynomial M(x); their CRC is the remainder of M(x) x^32 by
  -- P(x) = x^32 + x^26 + x^23 + ... + 1, over the field of 0 and 1. Byte by byte that would be a loop. But where M = H x^k + L,
  -- the remainder is also that of H (x^k mod P) + L, which is about half as long where k is half of the length, and a product by a
  -- polynomial of 32 coefficients is up to 32 shifts and an exclusive or, each of all bits at once. So it is folded until 32 bits are left.
  with recursive power (k, x_to_k) as (
    -- x^32, x^64, x^128, ... mod P, each the square of the one before
    select 32 << (p.ordinality - 1)::int, p.x_to_k
    from unnest(array[
      x'04c11db7', x'490d678d', x'e8a45605', x'75be46b7', x'e6228b11', x'567fddeb', x'88fe2237', x'0e857e71',
      x'7001e426', x'075de2b2', x'f12a7f90', x'f0b4a1c1', x'58f46c0c', x'c3395ade', x'96837f8c', x'544037f9',
      x'23b7b136', x'b2e16ba8', x'725e7bfa', x'ec709b5d', x'f77a7274', x'2845d572', x'034e2515', x'79695942',
      x'540cb128']) with ordinality as p (x_to_k)
  ), swapped (bits) as (
    -- a byte goes in with its lowest bit first: swap its halves, then the halves of these, then the halves of those
    select ((b.bits >> 1) & m.m55) | ((b.bits & m.m55) << 1)
    from (select
            ('x' || repeat('0f', length(crc32.bytes)))::bit varying as m0f,
            ('x' || repeat('33', length(crc32.bytes)))::bit varying as m33,
            ('x' || repeat('55', length(crc32.bytes)))::bit varying as m55
          offset 0) m,
      lateral (select ('x' || encode(crc32.bytes, 'hex'))::bit varying as bits offset 0) a,
      lateral (select ((a.bits >> 4) & m.m0f) | ((a.bits & m.m0f) << 4) as bits offset 0) a4,
      lateral (select ((a4.bits >> 2) & m.m33) | ((a4.bits & m.m33) << 2) as bits offset 0) b
  ), message (bits) as (
    select s.bits || repeat('0', 32)::bit varying
    from swapped s
  ), fold (bits) as (
    select ~ substring(m.bits from 1 for 32) || substring(m.bits from 33)                    -- a CRC begins with 32 ones
    from message m
    union all
    select
      (repeat('0', p.k - w.high - 31)::bit varying || product.bits) # (repeat('0', w.high + 31 - p.k)::bit varying || substring(f.bits from w.high + 1))
    from fold f,
      lateral (select p.k, p.x_to_k from power p where p.k < length(f.bits) order by p.k desc limit 1) p,
      lateral (select length(f.bits) - p.k as high) w,                                       -- coefficients of H
      lateral (select bit_xor((substring(f.bits from 1 for w.high) || repeat('0', 31)::bit varying) >> s.shift) as bits
               from generate_series(0, 31) as s (shift)
               where get_bit(p.x_to_k, s.shift) = 1) product
  )
  select reverse((~ f.bits)::text)::bit(32)::bigint
  from fold f
  where length(f.bits) = 32;
end;
comment on function sql_diffusion.crc32(bytea) is 'The cyclic redundancy check of PNG, zlib and Ethernet: 0 .. 4294967295. At most 67108860 bytes.';

create function sql_diffusion.zlib_stored(bytes bytea) returns bytea
language sql immutable strict parallel safe
begin atomic
  -- RFC 1950 around RFC 1951: the header, stored blocks (last or not, length, its complement, bytes), and the checksum
  select '\x7801'::bytea
    || string_agg(
      case when b.start + 65535 < length(zlib_stored.bytes) then '\x00'::bytea else '\x01'::bytea end
        || set_byte(set_byte('\x0000'::bytea, 0, b.size & 255), 1, b.size >> 8)
        || set_byte(set_byte('\x0000'::bytea, 0, (65535 - b.size) & 255), 1, (65535 - b.size) >> 8)
        || substring(zlib_stored.bytes from b.start + 1 for b.size),
      ''::bytea order by b.start)
    || substring(int8send(sql_diffusion.adler32(zlib_stored.bytes)) from 5)
  from (select s.start, least(65535, length(zlib_stored.bytes) - s.start) as size
        from generate_series(0, greatest(0, length(zlib_stored.bytes) - 1), 65535) as s (start)) b;
end;
comment on function sql_diffusion.zlib_stored(bytea) is 'The bytes as a zlib stream that does not compress them.';

create function sql_diffusion.png_chunk(name text, data bytea) returns bytea
language sql immutable strict parallel safe
return int4send(length(data)) || convert_to(name, 'SQL_ASCII') || data || substring(int8send(sql_diffusion.crc32(convert_to(name, 'SQL_ASCII') || data)) from 5);
comment on function sql_diffusion.png_chunk(text, bytea) is 'A chunk of a PNG: length, name of four letters, data, CRC.';

create function @extschema@.image_png(image real[], scale int default 1) returns bytea
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_image(image_png.image, 'image_png: image');
  select case
    when image_png.scale < 1
      then sql_diffusion.fail(format('image_png: scale is %s, expected at least 1', image_png.scale))
    when image_png.scale::numeric ^ 2 * cardinality(image_png.image) > 50000000
      then sql_diffusion.fail(format('image_png: scale %s makes a picture of %s values, expected at most 50000000',
        image_png.scale, round(image_png.scale::numeric ^ 2 * cardinality(image_png.image))))
    end;
  with pixel as (
    select b.y, b.x, repeat(string_agg(lpad(to_hex(b.byte), 2, '0'), '' order by b.channel), image_png.scale) as hex
    from sql_diffusion.image_bytes(image_png.image) b
    group by b.y, b.x
  ), row_of_pixels as (
    -- each row begins with the number of its filter: 0, none
    select p.y, repeat('00' || string_agg(p.hex, '' order by p.x), image_png.scale) as hex
    from pixel p
    group by p.y
  )
  select '\x89504e470d0a1a0a'::bytea
    || sql_diffusion.png_chunk('IHDR',
      int4send(array_length(image_png.image, 3) * image_png.scale)
      || int4send(array_length(image_png.image, 2) * image_png.scale)
      || '\x08'::bytea                                                                       -- bits a sample
      || (array['\x00', '\x04', '\x02', '\x06']::bytea[])[array_length(image_png.image, 1)]   -- gray, gray and alpha, RGB, RGBA
      || '\x000000'::bytea)
    || sql_diffusion.png_chunk('IDAT', sql_diffusion.zlib_stored(decode(string_agg(r.hex, '' order by r.y), 'hex')))
    || sql_diffusion.png_chunk('IEND', ''::bytea)
  from row_of_pixels r;
end;
comment on function @extschema@.image_png(real[], int) is
  'An image (channels, height, width), values 0..1, as the bytes of a PNG: 1 channel is gray, 2 gray and alpha, 3 RGB, 4 RGBA. Values are clamped to 0..1 and rounded as diffusers and '
  'Pillow do. Each pixel becomes a square of scale by scale pixels. 22023 for anything that is not such an image, and for more than 50 million values.';

-- Pictures made of characters.

create function @extschema@.image_ascii(image real[], width int default null, dark boolean default true) returns setof text
language sql immutable parallel safe
begin atomic
  select sql_diffusion.check_image(image_ascii.image, 'image_ascii: image');
  select case
    when image_ascii.width not between 1 and 1000
      then sql_diffusion.fail(format('image_ascii: width is %s, expected 1 to 1000 columns', image_ascii.width))
    when image_ascii.dark is null
      then sql_diffusion.fail('image_ascii: dark is null, expected true or false')
    end;
  -- Ink is what a letter adds to its ground: brightness (the luma of ITU-R BT.601) on a dark one, darkness on a light one.
  -- A letter stands for the average of the pixels that it covers, and is twice as high as it is wide. The letters are in the
  -- order of their ink, in even steps.
  with pixel as (
    select p.y, p.x,
      case when cardinality(p.bytes) in (2, 4) then p.bytes[cardinality(p.bytes)] / 255.0 else 1 end
        * abs(case when image_ascii.dark then 0 else 1 end
          - case when cardinality(p.bytes) < 3 then p.bytes[1] else 0.299 * p.bytes[1] + 0.587 * p.bytes[2] + 0.114 * p.bytes[3] end / 255.0) as ink
    from (select b.y, b.x, array_agg(b.byte order by b.channel) as bytes
          from sql_diffusion.image_bytes(image_ascii.image) b
          group by b.y, b.x) p
  ), plane as (
    select d.height, d.width, d.columns, greatest(1, round(d.height::numeric * d.columns / d.width / 2)::int) as lines,
      (select sql_diffusion.with_shape(array_agg(p.ink::real order by p.y, p.x), array[d.height, d.width]) from pixel p) as ink
    from (select
            array_length(image_ascii.image, 2) as height,
            array_length(image_ascii.image, 3) as width,
            coalesce(image_ascii.width, least(array_length(image_ascii.image, 3), 80)) as columns) d
    offset 0
  )
  select (select string_agg(substr(' .-,:~;!*+|c7JyoeXmKg8@M', 1 + round(23 * letter.ink)::int, 1), '' order by c.place)
          from generate_series(0, p.columns - 1) as c (place),
            lateral (select avg(i.ink) as ink
                     from unnest(p.ink[l.place * p.height / p.lines + 1 : ((l.place + 1) * p.height + p.lines - 1) / p.lines]
                                      [c.place * p.width / p.columns + 1 : ((c.place + 1) * p.width + p.columns - 1) / p.columns]) as i (ink)) letter)
  from plane p, generate_series(0, p.lines - 1) as l (place)
  order by l.place;
end;
comment on function @extschema@.image_ascii(real[], int, boolean) is
  'An image (channels, height, width), values 0..1, as lines of ASCII characters, one row a line. width is the number of columns: the image''s own, at most 80, unless told otherwise; the number '
  'of lines follows, as a character is twice as high as it is wide. dark: true for light letters on a dark ground, false for dark letters on a light one.';

create function @extschema@.image_ansi(image real[], scale int default 1) returns setof text
language sql immutable strict parallel safe
begin atomic
  select sql_diffusion.check_image(image_ansi.image, 'image_ansi: image');
  select case
    when image_ansi.scale not between 1 and 100
      then sql_diffusion.fail(format('image_ansi: scale is %s, expected 1 to 100', image_ansi.scale))
    end;
  -- A character cell shows two pixels: the upper half block is painted with the upper one's colour, its ground with the lower one's.
  with pixel as (
    select b.y, b.x, array_agg(b.byte order by b.channel) as bytes
    from sql_diffusion.image_bytes(image_ansi.image) b
    group by b.y, b.x
  ), coloured as (
    select p.y, p.x, format('%s;%s;%s',
      round(p.bytes[c.red] * c.alpha), round(p.bytes[c.green] * c.alpha), round(p.bytes[c.blue] * c.alpha)) as colour
    from pixel p,
      lateral (select
                 1 as red,
                 case when cardinality(p.bytes) < 3 then 1 else 2 end as green,
                 case when cardinality(p.bytes) < 3 then 1 else 3 end as blue,
                 case when cardinality(p.bytes) in (2, 4) then p.bytes[cardinality(p.bytes)] / 255.0 else 1 end as alpha) c
  )
  select string_agg(format(E'\033[38;2;%s;%sm%s', upper_pixel.colour, coalesce('48;2;' || lower_pixel.colour, '49'),
      repeat(convert_from('\xe29680', 'UTF8'), image_ansi.scale)), '' order by upper_pixel.x) || E'\033[0m'
  from generate_series(0, array_length(image_ansi.image, 2) * image_ansi.scale - 1, 2) as line (y)
    join coloured upper_pixel on upper_pixel.y = line.y / image_ansi.scale
    left join coloured lower_pixel on lower_pixel.y = (line.y + 1) / image_ansi.scale and lower_pixel.x = upper_pixel.x
  group by line.y
  order by line.y;
end;
comment on function @extschema@.image_ansi(real[], int) is
  'An image (channels, height, width), values 0..1, as lines of half blocks in true colour, two rows of pixels a line: psql -At shows the picture. Each pixel becomes a square of '
  'scale by scale. An alpha channel fades to black. The database''s encoding has to be UTF8.';
-- What people type. These live in the schema that CREATE EXTENSION names.

create function sql_diffusion.choose_backend(backend text) returns text
language sql stable parallel safe
begin atomic
  with wanted as (
    select coalesce(backend, nullif(current_setting('sql_diffusion.backend', true), ''), 'auto') as name
  ),
  server as (
    select exists (select from pg_extension e where e.extname = 'sql_diffusion_numpy') as has_numpy
  )
  select case
           when w.name not in ('auto', 'sql', 'numpy')
           then sql_diffusion.fail(format('backend is %L, expected auto, sql or numpy', w.name))::text
           when w.name = 'numpy' and not s.has_numpy
           then sql_diffusion.fail('backend is ''numpy'', but the extension sql_diffusion_numpy is not installed',
                                   'A superuser installs it: CREATE EXTENSION sql_diffusion_numpy CASCADE.', '55000')::text
           when w.name = 'auto'
           then case when s.has_numpy then 'numpy' else 'sql' end
           else w.name
         end
  from wanted w, server s;
end;
comment on function sql_diffusion.choose_backend(text) is
  'sql or numpy: the backend that is asked for, else the setting sql_diffusion.backend, else auto, which is numpy where that extension is installed.';

-- The other extension may not be there, and SQL binds names when a function is made: PL/pgSQL, which binds them at
-- the first call, carries the call over. What may lead to PL/Python is parallel unsafe: before PostgreSQL 17 that cannot run
-- a query in a parallel plan.

create function sql_diffusion.numpy_steps(seed bigint, model text, num_inference_steps int, timesteps int[], scheduler text, eta real)
  returns table (step int, timestep int, sample real[], pred_original_sample real[])
language plpgsql stable parallel unsafe rows 50
set search_path to pg_catalog, pg_temp
as $$
begin
  return query
    select s.step, s.timestep, s.sample, s.pred_original_sample
    from sql_diffusion_numpy.ddpm_steps(numpy_steps.seed, numpy_steps.model, numpy_steps.num_inference_steps, numpy_steps.timesteps, numpy_steps.scheduler, numpy_steps.eta) s;
end
$$;
comment on function sql_diffusion.numpy_steps(bigint, text, int, int[], text, real) is 'Calls sql_diffusion_numpy.ddpm_steps with the same arguments.';

create function sql_diffusion.numpy_generate(seeds bigint[], model text, num_inference_steps int, timesteps int[], scheduler text, eta real)
  returns table (seed bigint, image real[])
language plpgsql stable parallel unsafe rows 10
set search_path to pg_catalog, pg_temp
as $$
begin
  return query
    select g.seed, g.image
    from sql_diffusion_numpy.ddpm_generate(numpy_generate.seeds, numpy_generate.model, numpy_generate.num_inference_steps, numpy_generate.timesteps, numpy_generate.scheduler, numpy_generate.eta) g;
end
$$;
comment on function sql_diffusion.numpy_generate(bigint[], text, int, int[], text, real) is 'Calls sql_diffusion_numpy.ddpm_generate with the same arguments.';

create function @extschema@.ddpm_steps(seed bigint, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0, backend text default null)
  returns table (step int, timestep int, sample real[], pred_original_sample real[])
language sql stable parallel unsafe rows 50
begin atomic
  select s.step, s.timestep, s.sample, s.pred_original_sample
  from sql_diffusion.ddpm_steps(seed, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta) s
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select s.step, s.timestep, s.sample, s.pred_original_sample
  from sql_diffusion.numpy_steps(seed, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta) s
  where sql_diffusion.choose_backend(backend) = 'numpy';
end;
comment on function @extschema@.ddpm_steps(bigint, text, int, int[], text, real, text) is
  'Watch a picture come out of the noise: one row a step as it is done, with the sample it leads to and the guess of the finished one '
  '(channels, height, width, values about -1 to 1; sql_diffusion.denormalize makes a picture of either). Arguments as for ddpm_generate.';

create function @extschema@.ddpm_generate(seeds bigint[], model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0, backend text default null)
  returns table (seed bigint, image real[])
language sql stable parallel unsafe rows 10
begin atomic
  select g.seed, g.image
  from sql_diffusion.ddpm_generate(seeds, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta) g
  where sql_diffusion.choose_backend(backend) = 'sql'
  union all
  select g.seed, g.image
  from sql_diffusion.numpy_generate(seeds, coalesce(model, sql_diffusion.default_model()), num_inference_steps, timesteps, scheduler, eta) g
  where sql_diffusion.choose_backend(backend) = 'numpy';
end;
comment on function @extschema@.ddpm_generate(bigint[], text, int, int[], text, real, text) is
  'Pictures of several seeds, one row (seed, image) each, in their order; each is the picture that its seed gives alone. Arguments as for one seed.';

create function @extschema@.ddpm_generate(seed bigint, model text default null, num_inference_steps int default null, timesteps int[] default null,
    scheduler text default null, eta real default 0, backend text default null) returns real[]
language sql stable parallel unsafe
begin atomic
  select g.image
  from @extschema@.ddpm_generate(array[seed], model, num_inference_steps, timesteps, scheduler, eta, backend) g;
end;
comment on function @extschema@.ddpm_generate(bigint, text, int, int[], text, real, text) is
  'A picture (channels, height, width, values 0 to 1) out of noise. seed: any bigint, the noise is torch''s for it. model: by default the setting sql_diffusion.model, '
  'else the bundled butterflies. num_inference_steps or timesteps (descending): by default the model''s own schedule. scheduler: ddpm or ddim. eta: 0 to 1, the share of '
  'fresh noise in ddim. backend: auto, sql or numpy. The same picture that the diffusers pipeline makes of that checkpoint and seed, to within one grey level.';
