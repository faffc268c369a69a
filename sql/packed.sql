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
  foreign key (model, component, key) references sql_diffusion.stored_parameters (model, component, key) on update cascade on delete cascade
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

-- A layer that has lost a kernel is no longer packed: whoever deletes some by hand has a slower network, not a broken one.
create function sql_diffusion.unpack_incomplete() returns trigger
language plpgsql volatile security definer
set search_path to pg_catalog, pg_temp
as $$
begin
  if tg_op = 'TRUNCATE' then
    delete from sql_diffusion.packed_layers l
    where not exists (select from sql_diffusion.packed_kernels k where k.layer = l.id);
  else
    delete from sql_diffusion.packed_layers l
    where l.id in (select g.layer from gone g);
  end if;
  return null;
end
$$;
comment on function sql_diffusion.unpack_incomplete() is 'Trigger of sql_diffusion.packed_kernels: forgets the layers of kernels that were deleted.';
revoke execute on function sql_diffusion.unpack_incomplete() from public;

create trigger unpack_incomplete
  after delete on sql_diffusion.packed_kernels
  referencing old table as gone
  for each statement
  execute function sql_diffusion.unpack_incomplete();

create trigger unpack_truncated
  after truncate on sql_diffusion.packed_kernels
  for each statement
  execute function sql_diffusion.unpack_incomplete();

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
comment on function sql_diffusion.unpack() is 'Trigger of sql_diffusion.stored_parameters: forgets the packed kernels of a weight that has changed or gone.';
revoke execute on function sql_diffusion.unpack() from public;

create trigger unpack
  after update on sql_diffusion.stored_parameters
  for each row
  when (old.weight is distinct from new.weight or (old.dtype, old.weight_bytes) is distinct from (new.dtype, new.weight_bytes) or (old.model, old.component, old.key) is distinct from (new.model, new.component, new.key))
  execute function sql_diffusion.unpack();

create trigger unpack_deleted
  after delete on sql_diffusion.stored_parameters
  for each row
  execute function sql_diffusion.unpack();

alter table sql_diffusion.stored_parameters
  enable always trigger unpack,
  enable always trigger unpack_deleted;
