"""Print the SQL functions that know all schedulers, of the files that are there: sql/schedulers/NAME.sql each.

    python3 scripts/scheduler_registry.py sql/schedulers/*.sql > build/scheduler_registry.sql

A file defines sql_diffusion.NAME_scheduler() and sql_diffusion.NAME_schedule(...). Standard library only.
"""

from __future__ import annotations

import sys
from pathlib import Path

REGISTRY = """\
-- Made of the files of sql/schedulers by scripts/scheduler_registry.py.

create function sql_diffusion.schedulers() returns setof sql_diffusion.scheduler
language sql immutable parallel safe rows {count}
begin atomic
{all_schedulers};
end;
comment on function sql_diffusion.schedulers() is 'All schedulers that there are, one row each.';

create function sql_diffusion.scheduler_rows(name text, config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
{all_schedules};
end;
comment on function sql_diffusion.scheduler_rows(text, jsonb, real[], int, int[], real, int) is
  'The schedule of the scheduler of this short name, with its complete configuration and the alpha_cumprod of each timestep of the training; the first skipped steps are left out.';
"""
SCHEDULER = "  select s from sql_diffusion.{file}_scheduler() s"
SCHEDULE = """\
  select s
  from sql_diffusion.{file}_schedule(config, alphas_cumprod, num_inference_steps, timesteps, eta, skipped) s
  where name = (select known.name from sql_diffusion.{file}_scheduler() known)"""


def main() -> None:
    files = sorted(Path(name).stem for name in sys.argv[1:])

    def joined(query: str) -> str:
        return "\n  union all\n".join(query.format(file=file) for file in files)

    print(REGISTRY.format(count=len(files), all_schedulers=joined(SCHEDULER), all_schedules=joined(SCHEDULE)), end="")


if __name__ == "__main__":
    main()
