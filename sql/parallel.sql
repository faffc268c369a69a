-- Parallel query inside a pass. PostgreSQL's workers share out the pages of a table, nothing else: so here is a table whose rows
-- lie on a page each, and a row stands for a share of the channels (or heads) of a layer. A query
--
--   select s.share, layer_function(..., sql_diffusion.share_first(s.share, n), sql_diffusion.share_last(s.share, n)) from sql_diffusion.shares s
--
-- in a function that returns a set is run by several processes where the server allows it and the function is said to be dear.
-- It is the same query, with the same result, where it does not.

create table sql_diffusion.shares (
  share  int primary key,
  page   text not null
);
comment on table sql_diffusion.shares is 'Thirty-two shares of a layer''s work, which parallel workers take one after the other.';
comment on column sql_diffusion.shares.share is 'its number, 1 to 32';
comment on column sql_diffusion.shares.page is 'nothing: what fills the row''s page, since workers share a table out page by page';

alter table sql_diffusion.shares set (fillfactor = 10, parallel_workers = 8);
insert into sql_diffusion.shares (share, page)
select share, repeat('-', 1000) from generate_series(1, 32) share;
grant select on sql_diffusion.shares to public;

create function sql_diffusion.share_first(share int, n int) returns int
language sql immutable strict parallel safe
return (share - 1) * n / 32 + 1;
comment on function sql_diffusion.share_first(int, int) is 'The first of n things that belongs to a share.';

create function sql_diffusion.share_last(share int, n int) returns int
language sql immutable strict parallel safe
return share * n / 32;
comment on function sql_diffusion.share_last(int, int) is 'The last of n things that belongs to a share; less than share_first where none does.';

create aggregate sql_diffusion.array_cat_agg(anycompatiblearray) (
  sfunc    = array_cat,
  stype    = anycompatiblearray,
  parallel = safe
);
comment on aggregate sql_diffusion.array_cat_agg(anycompatiblearray) is
  'Arrays joined along their first dimension, in the order that is stated: what the shares bring home. NULL counts for nothing.';
