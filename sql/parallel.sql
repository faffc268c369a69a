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

-- What a worker brings home goes through a queue of 64 kB. A leader that works on a share itself reads from the queues only between two of its own, so that
-- workers with larger results mostly wait for it. Where results are large, as those of layers too large to be packed, it reads and does nothing else
-- (parallel_leader_participation is off): with less than two workers there is nothing to win.
create function sql_diffusion.worth_two_workers(nanoseconds double precision) returns boolean
language sql stable parallel safe
return sql_diffusion.worth_workers(nanoseconds)
       and least(current_setting('max_parallel_workers_per_gather')::int, current_setting('max_parallel_workers')::int) > 1;
comment on function sql_diffusion.worth_two_workers(double precision) is
  'Whether to give what takes one process about so many nanoseconds to workers that a leader only reads from: the session must be allowed two of them.';

create aggregate sql_diffusion.array_cat_agg(anycompatiblearray) (
  sfunc    = array_cat,
  stype    = anycompatiblearray,
  parallel = safe
);
comment on aggregate sql_diffusion.array_cat_agg(anycompatiblearray) is
  'Arrays joined along their first dimension, in the order that is stated: what the shares bring home. NULL counts for nothing.';
