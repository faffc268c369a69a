-- Progress: what a call in pure SQL tells while it is under way, as its twin in NumPy does.

create function sql_diffusion.notice(message text) returns boolean
language plpgsql volatile parallel safe
set search_path to pg_catalog, pg_temp
as $$
begin
  raise notice using message = message;
  return true;
end
$$;
comment on function sql_diffusion.notice(text) is 'Sends a NOTICE to the client at once, and is true. SQL has no statement that does.';

create function sql_diffusion.tells_progress() returns boolean
language sql volatile parallel safe
return (
  select case
         when coalesce(s.value, '') = '' or lower(s.value collate "C") in ('on', 'true', 'yes', '1') then true
         when lower(s.value collate "C") in ('off', 'false', 'no', '0') then false
         else sql_diffusion.fail(format('sql_diffusion.progress is %L, expected on or off', s.value))
         end
  from (select btrim(current_setting('sql_diffusion.progress', true)) as value) s
);
comment on function sql_diffusion.tells_progress() is 'The setting sql_diffusion.progress: true where it is not set. Error 22023 for what is neither on nor off.';

create function sql_diffusion.tell_progress(step int, steps int, seconds double precision) returns boolean
language sql volatile parallel safe
begin atomic
  -- A step is told where the call has passed 2, 4, 8, 16, 32 or 64 seconds with it, or another minute; all steps take about as long.
  with passed as (
    select least(tell_progress.seconds, 1e9) as seconds
  ),
  mark as (
    select p.seconds,
           case when p.seconds < 2 then 0
                when p.seconds < 64 then power(2, floor(log(2, p.seconds::numeric)))
                else greatest(64, 60 * floor(p.seconds / 60)) end as latest
    from passed p
  )
  select case
           when sql_diffusion.tells_progress()
             and step < steps
             and m.seconds * (step - 1) < m.latest * step
           then sql_diffusion.notice(format('step %s of %s', step, steps))
           else true
         end
  from mark m;
end;
comment on function sql_diffusion.tell_progress(int, int, double precision) is
  'Tells the client with a NOTICE that a step of so many is done, so many seconds after the first one began: at first after two seconds, then after twice as long each time, '
  'at last once a minute. Nothing is told of the last step, nor where sql_diffusion.progress is off. Always true.';
