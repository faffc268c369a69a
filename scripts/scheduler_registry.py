"""Print the SQL functions that know all schedulers, of the files that are there: sql/schedulers/NAME.sql each.

    python3 scripts/scheduler_registry.py sql/schedulers/*.sql > build/scheduler_registry.sql

A file defines sql_diffusion.NAME_schedule(...) and sql_diffusion.NAME_scheduler(), whose row begins with the short name, the class and
the other names. Standard library only.
"""

from __future__ import annotations

import json
import re
import sys
from pathlib import Path

REGISTRY = """\
-- Made of the files of sql/schedulers by scripts/scheduler_registry.py. Names stand here as constants, so that nothing is planned but the
-- scheduler that is asked for.

create function sql_diffusion.scheduler_names() returns table (given text, name text, class_name text)
language sql immutable parallel safe rows {count}
begin atomic
  select known.given, known.name, known.class_name
  from (values
    {names}
  ) known (given, name, class_name);
end;
comment on function sql_diffusion.scheduler_names() is 'What each scheduler may be called, in lower case, with its short name and its class in diffusers.';

create function sql_diffusion.scheduler_of(class_name text) returns sql_diffusion.scheduler
language sql immutable parallel safe
return case class_name
         {schedulers}
       end;
comment on function sql_diffusion.scheduler_of(text) is 'What the scheduler of this class is; NULL for a class that is not there.';

create function sql_diffusion.schedulers() returns setof sql_diffusion.scheduler
language sql immutable parallel safe rows {count}
begin atomic
  select sql_diffusion.scheduler_of(known.class_name)
  from (select distinct n.class_name from sql_diffusion.scheduler_names() n) known
  order by known.class_name;
end;
comment on function sql_diffusion.schedulers() is 'All schedulers that there are, one row each.';

create function sql_diffusion.scheduler_rows(config jsonb, alphas_cumprod real[], num_inference_steps int, timesteps int[], eta real, skipped int)
  returns setof sql_diffusion.schedule_step
language sql immutable parallel safe rows 50
set jit to off
begin atomic
  {schedules};
end;
comment on function sql_diffusion.scheduler_rows(jsonb, real[], int, int[], real, int) is
  'The schedule of a scheduler, by its complete configuration and the alpha_cumprod of each timestep of the training; the first skipped steps are left out.';
"""
ROW = re.compile(r"return row\('(?P<name>[^']+)', '(?P<class_name>\w+)', '(?P<aliases>\{.*?\})', '", re.DOTALL)


def main() -> None:
    names, schedulers, schedules = [], [], []
    for path in sorted(Path(name) for name in sys.argv[1:]):
        row = ROW.search(path.read_text(encoding="utf-8"))
        if row is None:
            raise SystemExit(f"{path} says no name, class and other names")
        name, class_name, file = row["name"], row["class_name"], path.stem
        given = {name: None, class_name.lower(): None, class_name.removesuffix("Scheduler").lower(): None}
        given |= dict.fromkeys(json.loads(row["aliases"]))
        names += [f"('{one}', '{name}', '{class_name}')" for one in given]
        schedulers.append(f"when '{class_name}' then sql_diffusion.{file}_scheduler()")
        schedules.append(
            f"select s\n  from sql_diffusion.{file}_schedule(config, alphas_cumprod, num_inference_steps, timesteps, eta, skipped) s\n"
            f"  where config ->> '_class_name' = '{class_name}'"
        )
    print(
        REGISTRY.format(
            count=len(names),
            names=",\n    ".join(names),
            schedulers="\n         ".join(schedulers),
            schedules="\n  union all\n  ".join(schedules),
        ),
        end="",
    )


if __name__ == "__main__":
    main()
