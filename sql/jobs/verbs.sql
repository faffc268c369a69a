-- What is done with jobs. Each is one short transaction; what paints claims and commits first, so that nothing is locked while it paints.

create function sql_diffusion.tell_finished(id bigint) returns boolean
language sql volatile parallel unsafe
begin atomic
  select pg_notify('sql_diffusion_finished', tell_finished.id::text);
  select true;
end;
comment on function sql_diffusion.tell_finished(bigint) is
  'Tells who listens to the channel sql_diffusion_finished the number of a job, nothing else of it, once the transaction is committed. Always true.';

create function sql_diffusion.tell_queued() returns boolean
language sql volatile parallel unsafe
begin atomic
  select pg_notify('sql_diffusion_jobs', '');
  select true;
end;
comment on function sql_diffusion.tell_queued() is 'Tells who listens to the channel sql_diffusion_jobs that there is something to paint, once the transaction is committed. Always true.';

create function sql_diffusion.enqueue(seed bigint, prompt text default null, model text default null, settings jsonb default '{}', priority int default 0, max_attempts int default 3) returns bigint
language sql volatile parallel unsafe
begin atomic
  select case
           when enqueue.seed is null then sql_diffusion.fail('jobs: seed is null, expected an integer')
           when enqueue.max_attempts < 1 then sql_diffusion.fail(format('jobs: max_attempts is %s, expected 1 or more', enqueue.max_attempts))
           else sql_diffusion.tell_queued()
         end;
  insert into sql_diffusion.jobs (seed, prompt, model, settings, priority, max_attempts)
  values (enqueue.seed, enqueue.prompt, enqueue.model, coalesce(enqueue.settings, '{}'), coalesce(enqueue.priority, 0), coalesce(enqueue.max_attempts, 3))
  returning id;
end;
comment on function sql_diffusion.enqueue(bigint, text, text, jsonb, int, int) is
  'Puts a job into the queue and returns its id; select state, error, png from sql_diffusion.jobs where id = ... shows what became of it. settings: further arguments of text_to_image, or without a prompt of ddpm_generate, such as '
  '{"num_inference_steps": 20}. priority: the highest is painted first. max_attempts (1 or more): how often it is tried. Who listens to the channel sql_diffusion_jobs hears that there is something, and to sql_diffusion_finished '
  'the id of each job that is finished. Errors: 22023 for a seed that is NULL or too few attempts, 0A000 for settings that there are not, 42501 for a role that has not SELECT and INSERT on sql_diffusion.jobs. The model is looked for when the job is painted.';

create function sql_diffusion.check_lease(name text, lease interval) returns interval
language sql immutable parallel safe
begin atomic
  select case
           when lease > '0' then lease
           when lease is null then '15 minutes'
           else sql_diffusion.fail(format('%s: lease is %L, expected more than 0', name, lease::text))::text::interval
         end;
end;
comment on function sql_diffusion.check_lease(text, interval) is 'A lease, 15 minutes for one that is NULL; an error (22023) for one that ends before it begins. The name opens the message.';

create function sql_diffusion.claim_jobs(count int default 1, lease interval default '15 minutes')
  returns table (id bigint, attempt int, prompt text, seed bigint, model text, settings jsonb)
language sql volatile parallel unsafe rows 10
begin atomic
  select sql_diffusion.check_lease('claim_jobs', claim_jobs.lease);
  with claimed as (
    update sql_diffusion.jobs j
    set state = case when j.attempt < j.max_attempts then 'running' else 'failed' end,
        attempt = least(j.attempt, j.max_attempts - 1) + 1,
        lease_until = case when j.attempt < j.max_attempts then clock_timestamp() + sql_diffusion.check_lease('claim_jobs', claim_jobs.lease) end,
        started_at = case when j.attempt < j.max_attempts then clock_timestamp() else j.started_at end,
        finished_at = case when j.attempt < j.max_attempts then null else clock_timestamp() end,
        error = case when j.attempt < j.max_attempts then j.error
                     else format('claimed %s time%s, and neither a picture nor an error came before the lease ended', j.attempt, case when j.attempt > 1 then 's' end) end
    -- an array, not a join: how many there will be is not known when this is planned, and a join would read the whole table for a few
    where j.id = any (array(select c.id
                            from sql_diffusion.claimable_jobs c
                            limit greatest(coalesce(claim_jobs.count, 0), 0)
                            for update of c skip locked))
    returning j.id, j.attempt, j.prompt, j.seed, j.model, j.settings, j.priority,
              case when j.state = 'failed' then sql_diffusion.tell_finished(j.id) else false end as failed
  )
  select c.id, c.attempt, c.prompt, c.seed, c.model, c.settings
  from claimed c
  where not c.failed
  order by c.priority desc, c.id;
end;
comment on function sql_diffusion.claim_jobs(int, interval) is
  'Takes up to so many jobs to paint, of those that nobody has: commit, paint, and write back with sql_diffusion.finish_job or fail_job, with the id and the attempt. Who has not within the lease loses the job to who claims next; after '
  'max_attempts of that it has failed, and counts as taken here without being returned. Calls at the same time take different jobs and do not wait for each other (in READ COMMITTED). Needs SELECT and UPDATE on '
  'sql_diffusion.jobs and sql_diffusion.claimable_jobs, and for the jobs of others SELECT on sql_diffusion.stored_jobs.';

create function sql_diffusion.extend_lease(id bigint, attempt int, lease interval default '15 minutes') returns boolean
language sql volatile parallel unsafe
begin atomic
  select sql_diffusion.check_lease('extend_lease', extend_lease.lease);
  with extended as (
    update sql_diffusion.jobs j
    set lease_until = clock_timestamp() + sql_diffusion.check_lease('extend_lease', extend_lease.lease)
    where j.id = extend_lease.id
      and j.attempt = extend_lease.attempt
      and j.state = 'running'
    returning j.id
  )
  select exists (select from extended e);
end;
comment on function sql_diffusion.extend_lease(bigint, int, interval) is
  'Gives who paints a job another lease, from now on: called in time, again and again from another session than the one that paints, a lease can be shorter than a picture takes. False where the job was cancelled, or another has claimed it since.';

create function sql_diffusion.finish_job(id bigint, attempt int, png bytea) returns boolean
language sql volatile parallel unsafe
begin atomic
  select case when png is null then sql_diffusion.fail('finish_job: png is null, expected the bytes of a picture') end;
  with finished as (
    update sql_diffusion.jobs j
    set state = 'succeeded', png = finish_job.png, error = null, lease_until = null, finished_at = clock_timestamp()
    where j.id = finish_job.id
      and j.attempt = finish_job.attempt
      and j.state = 'running'
    returning sql_diffusion.tell_finished(j.id) as told
  )
  select exists (select from finished f where f.told);
end;
comment on function sql_diffusion.finish_job(bigint, int, bytea) is
  'Writes the picture of a claimed job, a PNG. True where it was written; false where the job was cancelled, or another has claimed it since: the picture is thrown away. Errors: 22023 for a picture that is NULL.';

create function sql_diffusion.fail_job(id bigint, attempt int, error text, errcode text default null) returns boolean
language sql volatile parallel unsafe
begin atomic
  with failed as (
    update sql_diffusion.jobs j
    set state = case when own.is_final then 'failed' else 'queued' end,
        error = coalesce(fail_job.error, 'unknown error'),
        max_attempts = case when fail_job.errcode = '57P01' then least(j.max_attempts, 2147483646) + 1 else j.max_attempts end,
        lease_until = null,
        finished_at = case when own.is_final then clock_timestamp() end
    from (select k.id, (k.attempt >= k.max_attempts and fail_job.errcode is distinct from '57P01') or coalesce(left(fail_job.errcode, 2) in ('0A', '22', '23', '42'), false) as is_final
          from sql_diffusion.jobs k
          where k.id = fail_job.id) own
    where j.id = own.id
      and j.attempt = fail_job.attempt
      and j.state = 'running'
    returning case when j.state = 'failed' then sql_diffusion.tell_finished(j.id) else sql_diffusion.tell_queued() end as told
  )
  select exists (select from failed f where f.told);
end;
comment on function sql_diffusion.fail_job(bigint, int, text, text) is
  'Says why a claimed job was not painted. It is queued again, but for the last of its max_attempts, and for an SQLSTATE, errcode, of the classes 0A, 22, 23 and 42, which will be the same next time: a wrong argument, no such model. With 57P01, of a painter that is ended, the attempt does not count: max_attempts is one more. '
  'False where the job was cancelled, or another has claimed it since.';

create function sql_diffusion.cancel_job(id bigint) returns boolean
language sql volatile parallel unsafe
begin atomic
  with cancelled as (
    update sql_diffusion.jobs j
    set state = 'cancelled', lease_until = null, finished_at = clock_timestamp()
    where j.id = cancel_job.id
      and j.state in ('queued', 'running')
    returning sql_diffusion.tell_finished(j.id) as told
  )
  select exists (select from cancelled c where c.told);
end;
comment on function sql_diffusion.cancel_job(bigint) is 'Takes a job out of the queue; a picture that is being painted is thrown away. False where there is no such job, or it is finished.';

create function sql_diffusion.retry_job(id bigint) returns boolean
language sql volatile parallel unsafe
begin atomic
  with queued as (
    update sql_diffusion.jobs j
    set state = 'queued', error = null, finished_at = null, max_attempts = greatest(j.max_attempts, least(j.attempt, 2147483646) + 1)
    where j.id = retry_job.id
      and j.state in ('failed', 'cancelled')
    returning sql_diffusion.tell_queued() as told
  )
  select exists (select from queued q where q.told);
end;
comment on function sql_diffusion.retry_job(bigint) is
  'Puts a job that has failed, or was cancelled, into the queue again, with one more attempt where all have been used: after what was wrong has been mended. False where there is no such job, or it is in the queue, or has its picture.';

create function sql_diffusion.paint_job(seed bigint, prompt text default null, model text default null, settings jsonb default '{}', backend text default null) returns bytea
language sql stable parallel unsafe
begin atomic
  select case
           when prompt is null
           then @extschema@.image_png(@extschema@.ddpm_generate(seed, s.class_label, model, s.num_inference_steps, s.timesteps, s.scheduler, s.eta::real, backend))
           else @extschema@.image_png(@extschema@.text_to_image(prompt, seed, model, s.negative_prompt, s.num_inference_steps, s.guidance_scale, s.height, s.width, s.scheduler, s.timesteps, s.eta, backend,
                                                                coalesce(s.guidance_rescale, 0), s.clip_skip))
         end
  from sql_diffusion.job_settings(coalesce(settings, '{}')) s;
end;
comment on function sql_diffusion.paint_job(bigint, text, text, jsonb, text) is
  'The picture of a job as a PNG: what text_to_image, or without a prompt ddpm_generate, makes with these arguments and settings. backend: that of who paints.';

create function sql_diffusion.check_painter(backend text default null) returns boolean
language plpgsql stable parallel unsafe
set search_path to pg_catalog, pg_temp
as $$
declare
  chosen text := sql_diffusion.choose_backend(backend);
begin
  perform from sql_diffusion.models limit 0;
  perform from sql_diffusion.parameters limit 0;
  if chosen = 'numpy' then
    perform sql_diffusion_numpy.check_painter();
  elsif chosen = 'torch' then
    perform sql_diffusion_torch.check_painter();
  end if;
  return true;
end
$$;
comment on function sql_diffusion.check_painter(text) is
  'True where this session can paint, whatever the job is; else the error that each job would end with: no such backend (22023, 55000), no PyTorch (58P01), a setting that is no number of threads, memory or device (22023), '
  'no right to read the models (42501). backend: auto, sql, numpy or torch, as for text_to_image.';

-- Only a procedure without settings of its own may commit, so nothing says what is searched for names: all that it names has its schema.
create procedure sql_diffusion.work(jobs int default null, lease interval default '15 minutes', backend text default null)
language plpgsql
as $$
declare
  job pg_catalog.record;
  png pg_catalog.bytea;
  words pg_catalog.text;
  code pg_catalog.text;
begin
  if jobs operator(pg_catalog.<) 0 then
    perform sql_diffusion.fail(pg_catalog.concat('work: jobs is ', jobs, ', expected 0 or more'));
  end if;
  perform sql_diffusion.check_lease('work', lease);
  perform sql_diffusion.check_painter(backend);
  for number in 1 .. coalesce(jobs, 2147483647) loop
    select c.id, c.attempt, c.prompt, c.seed, c.model, c.settings into job from sql_diffusion.claim_jobs(1, lease) c;
    commit;
    if job.id is null then
      -- either it was one that has failed now, and there are more, or those that are left are locked by somebody: no waiting for him
      perform from sql_diffusion.claimable_jobs c limit 1 for update of c skip locked;
      exit when not found;
      continue;
    end if;
    begin
      png := sql_diffusion.paint_job(job.seed, job.prompt, job.model, job.settings, backend);
      perform sql_diffusion.finish_job(job.id, job.attempt, png);
    exception when others or query_canceled then
      get stacked diagnostics words = message_text, code = returned_sqlstate;
      perform sql_diffusion.fail_job(job.id, job.attempt, words, code);
    end;
    commit;
    if code operator(pg_catalog.=) '57014' then
      raise exception using message = words, errcode = code;
    end if;
  end loop;
end
$$;
comment on procedure sql_diffusion.work(int, interval, text) is
  'Paints jobs, one after the other, each claimed and written back in transactions of their own, until nothing is left to claim or jobs of them were painted. What keeps the session from painting any (check_painter) is said before one is claimed. A job that fails keeps the words, and the next one has its turn; one whose call is cancelled is back in the queue. '
  'lease: longer than a picture takes. backend: auto, sql, numpy or torch, as for text_to_image. Several sessions may call it at once. It has to be called outside of transactions, for it commits.';
