-- A queue of pictures that are wanted. Jobs lie in a table that only its owner reads; the view sql_diffusion.jobs shows everybody his own, and
-- all of them to who was granted SELECT on the table. (Row level security would do the same, but a dump has the policies of an extension's table
-- a second time, and could not be restored.)

create function sql_diffusion.job_settings(settings jsonb)
  returns table (negative_prompt text, class_label int, num_inference_steps int, guidance_scale double precision, height int, width int, scheduler text,
    timesteps int[], eta double precision, guidance_rescale double precision, clip_skip int)
language sql immutable strict parallel safe rows 1
begin atomic
  select s.negative_prompt, s.class_label, s.num_inference_steps, s.guidance_scale, s.height, s.width, s.scheduler, s.timesteps, s.eta, s.guidance_rescale, s.clip_skip
  from jsonb_to_record(settings) as s (negative_prompt text, class_label int, num_inference_steps int, guidance_scale double precision, height int, width int, scheduler text,
    timesteps int[], eta double precision, guidance_rescale double precision, clip_skip int);
end;
comment on function sql_diffusion.job_settings(jsonb) is
  'The settings of a job, an object, as the arguments of text_to_image and ddpm_generate that have their names. Errors: 22P02 and others for values that are none.';

create function sql_diffusion.check_job_settings(settings jsonb, has_prompt boolean) returns boolean
language sql immutable parallel safe
begin atomic
  select case
           when jsonb_typeof(settings) = 'object'
           then sql_diffusion.check_known_settings('jobs', settings,
                  '{"num_inference_steps": 1, "timesteps": 1, "scheduler": 1, "eta": 1}'::jsonb
                  || case when has_prompt
                          then '{"negative_prompt": 1, "guidance_scale": 1, "height": 1, "width": 1, "guidance_rescale": 1, "clip_skip": 1}'::jsonb
                          else '{"class_label": 1}'::jsonb end)
                and exists (select from sql_diffusion.job_settings(settings) s where s is distinct from null)
           else sql_diffusion.fail(format('jobs: settings is %s, expected an object', coalesce(jsonb_typeof(settings), 'null')))
         end;
end;
comment on function sql_diffusion.check_job_settings(jsonb, boolean) is
  'True for settings that a job can have: an object whose keys are arguments of text_to_image, or without a prompt of ddpm_generate. Errors: 0A000 for others, 22P02 and others for values that are none.';

create table sql_diffusion.stored_jobs (
  id            bigint generated always as identity primary key,
  owner         name not null default current_user,
  prompt        text,
  seed          bigint not null,
  model         text,
  settings      jsonb not null default '{}',
  priority      int not null default 0,
  state         text not null default 'queued' check (state in ('queued', 'running', 'succeeded', 'failed', 'cancelled')),
  attempt       int not null default 0 check (attempt >= 0),
  max_attempts  int not null default 3 check (max_attempts > 0),
  lease_until   timestamptz,
  error         text,
  enqueued_at   timestamptz not null default now(),
  started_at    timestamptz,
  finished_at   timestamptz,
  png           bytea,
  constraint stored_jobs_settings check (sql_diffusion.check_job_settings(settings, prompt is not null)),
  constraint stored_jobs_finished check ((finished_at is null) = (state in ('queued', 'running')))
)
-- A claim changes no column that an index knows, and has room in the page: it leaves no dead entry in an index.
with (fillfactor = 50);
alter table sql_diffusion.stored_jobs alter column png set storage external;
comment on table sql_diffusion.stored_jobs is 'One row a job, everybody''s. Who is granted SELECT on this table sees all of them in the views sql_diffusion.jobs and sql_diffusion.claimable_jobs, which the functions go by.';

-- What is not finished, in the order in which it is claimed. Those that are being painted are at its front, as many as there are painters.
create index stored_jobs_unfinished on sql_diffusion.stored_jobs (priority desc, id) where finished_at is null;
comment on index sql_diffusion.stored_jobs_unfinished is 'What is not finished, in the order of claims.';
create index stored_jobs_owner on sql_diffusion.stored_jobs (owner, id);
comment on index sql_diffusion.stored_jobs_owner is 'The jobs of a role.';

create view sql_diffusion.jobs with (security_barrier) as
select j.id, j.owner, j.prompt, j.seed, j.model, j.settings, j.priority, j.state, j.attempt, j.max_attempts, j.lease_until, j.error, j.enqueued_at, j.started_at, j.finished_at, j.png
from sql_diffusion.stored_jobs j
where j.owner = current_user
   or (select has_table_privilege('sql_diffusion.stored_jobs'::regclass, 'select'))
with cascaded check option;
comment on view sql_diffusion.jobs is
  'The jobs of the current role, and those of all roles for who was granted SELECT on sql_diffusion.stored_jobs. With SELECT, INSERT and UPDATE on this view a role has the queue: sql_diffusion.enqueue puts a job into it, sql_diffusion.work paints, png is the picture.';

-- With the order in it, and not around it, rows are locked in that order and one by one, as LIMIT asks for them.
create view sql_diffusion.claimable_jobs with (security_barrier) as
select j.id, j.owner, j.priority
from sql_diffusion.stored_jobs j
where j.finished_at is null
  and (j.lease_until is null or j.lease_until < clock_timestamp())
  and (j.owner = current_user or (select has_table_privilege('sql_diffusion.stored_jobs'::regclass, 'select')))
order by j.priority desc, j.id;
comment on view sql_diffusion.claimable_jobs is
  'What may be painted now, in the order in which it is claimed: jobs that are queued, and those whose painter''s lease has ended. Who is to claim needs SELECT and UPDATE on it.';

comment on column sql_diffusion.stored_jobs.id is 'its number, which sql_diffusion.enqueue returns';
comment on column sql_diffusion.stored_jobs.owner is 'the role that enqueued it';
comment on column sql_diffusion.stored_jobs.prompt is 'what the picture shows; NULL for a model that takes no prompt';
comment on column sql_diffusion.stored_jobs.seed is 'what makes the picture this one, any bigint';
comment on column sql_diffusion.stored_jobs.model is 'the model that paints; NULL: the setting sql_diffusion.model of who paints, else the bundled one';
comment on column sql_diffusion.stored_jobs.settings is 'further arguments of text_to_image, or of ddpm_generate without a prompt: {"num_inference_steps": 20, "negative_prompt": "rain"}';
comment on column sql_diffusion.stored_jobs.priority is 'the highest is painted first, and of one priority what was enqueued first';
comment on column sql_diffusion.stored_jobs.state is 'queued, running, succeeded, failed or cancelled';
comment on column sql_diffusion.stored_jobs.attempt is 'how often it was claimed; with it a painter writes back, and one whose lease has ended does not';
comment on column sql_diffusion.stored_jobs.max_attempts is 'how often it is claimed at most; then it has failed';
comment on column sql_diffusion.stored_jobs.lease_until is 'until when its painter has it: once that has passed, others may claim it';
comment on column sql_diffusion.stored_jobs.error is 'the words of the last call that failed';
comment on column sql_diffusion.stored_jobs.enqueued_at is 'when it was enqueued';
comment on column sql_diffusion.stored_jobs.started_at is 'when it was claimed last';
comment on column sql_diffusion.stored_jobs.finished_at is 'when it succeeded, failed or was cancelled; NULL before';
comment on column sql_diffusion.stored_jobs.png is 'the picture, a PNG; image_from_png makes an image of it';

comment on column sql_diffusion.jobs.id is 'its number, which sql_diffusion.enqueue returns';
comment on column sql_diffusion.jobs.owner is 'the role that enqueued it';
comment on column sql_diffusion.jobs.prompt is 'what the picture shows; NULL for a model that takes no prompt';
comment on column sql_diffusion.jobs.seed is 'what makes the picture this one, any bigint';
comment on column sql_diffusion.jobs.model is 'the model that paints; NULL: the setting sql_diffusion.model of who paints, else the bundled one';
comment on column sql_diffusion.jobs.settings is 'further arguments of text_to_image, or of ddpm_generate without a prompt: {"num_inference_steps": 20, "negative_prompt": "rain"}';
comment on column sql_diffusion.jobs.priority is 'the highest is painted first, and of one priority what was enqueued first';
comment on column sql_diffusion.jobs.state is 'queued, running, succeeded, failed or cancelled';
comment on column sql_diffusion.jobs.attempt is 'how often it was claimed; with it a painter writes back, and one whose lease has ended does not';
comment on column sql_diffusion.jobs.max_attempts is 'how often it is claimed at most; then it has failed';
comment on column sql_diffusion.jobs.lease_until is 'until when its painter has it: once that has passed, others may claim it';
comment on column sql_diffusion.jobs.error is 'the words of the last call that failed';
comment on column sql_diffusion.jobs.enqueued_at is 'when it was enqueued';
comment on column sql_diffusion.jobs.started_at is 'when it was claimed last';
comment on column sql_diffusion.jobs.finished_at is 'when it succeeded, failed or was cancelled; NULL before';
comment on column sql_diffusion.jobs.png is 'the picture, a PNG; image_from_png makes an image of it';

comment on column sql_diffusion.claimable_jobs.id is 'its number, which sql_diffusion.enqueue returns';
comment on column sql_diffusion.claimable_jobs.owner is 'the role that enqueued it';
comment on column sql_diffusion.claimable_jobs.priority is 'the highest is painted first, and of one priority what was enqueued first';
