"""Write the functions that choose among networks and operations, from the files that are there.

    dispatchers.py operations sql/operations/*.sql    run_operation and operation_modules
    dispatchers.py networks sql/networks/*.sql        network_plan, network_config, check_network, sample_shape

A file sql/operations/NAME.sql defines run_NAME, and NAME_modules where the operation has parameters. A file
sql/networks/NAME.sql says on its first line which class it is, "-- CLASS: ...", and defines NAME_plan, NAME_config,
check_NAME and NAME_sample_shape. So adding either is adding a file. Standard library only.
"""

from __future__ import annotations

import re
import sys
from pathlib import Path

STEP = "step sql_diffusion.plan_step"
ARGUMENTS = f"{STEP}, inputs sql_diffusion.feature_maps[], model text, component text"


def operations(files: dict[str, str]) -> str:
    known = ", ".join(f"'{name}'" for name in files)
    run = "\n  union all\n".join(
        "  select maps.planes, maps.height, maps.width, maps.mean, maps.variance, maps.low, maps.high\n"
        f"  from sql_diffusion.run_{name}(step, inputs, model, component) maps\n"
        f"  where (step).operation = '{name}'"
        for name in files
    )
    modules = "\n  union all\n".join(
        "  select m.suffix, m.weight_shape, m.bias, m.scale\n"
        f"  from sql_diffusion.{name}_modules(step) m\n"
        f"  where (step).operation = '{name}'"
        for name, source in files.items()
        if f"sql_diffusion.{name}_modules(" in source
    )
    return f"""\
-- Made by scripts/dispatchers.py: one branch for each file of sql/operations.

create function sql_diffusion.operations() returns text[]
language sql immutable parallel safe
return array[{known}];
comment on function sql_diffusion.operations() is 'The operations that a step of a plan can have.';

create function sql_diffusion.operation_modules({STEP}) returns setof sql_diffusion.plan_module
language sql immutable parallel safe rows 2
begin atomic
{modules};
end;
comment on function sql_diffusion.operation_modules(sql_diffusion.plan_step) is
  'The modules below the key of a step, with the shapes of their parameters: what a model must have to run it.';

create function sql_diffusion.run_operation({ARGUMENTS}) returns setof sql_diffusion.feature_maps
language sql stable parallel safe rows 1
begin atomic
{run}
  union all
  select null, null, null, null, null, null, null
  where coalesce((step).operation <> all (sql_diffusion.operations()), true)
    and sql_diffusion.fail(format('step %s of %s has the operation %s, which nothing implements', (step).step, component, coalesce((step).operation, 'null')), errcode => '0A000');
end;
comment on function sql_diffusion.run_operation(sql_diffusion.plan_step, sql_diffusion.feature_maps[], text, text) is
  'Runs one step of a plan: the results of the steps that it takes go in, its own comes out. An error (0A000) for an operation that has no file in sql/operations. '
  'A set of one row, so that the planner puts the queries of all operations in its place, once for a pass.';
"""


def networks(files: dict[str, str]) -> str:
    classes = {}
    for name, source in files.items():
        found = re.match(r"-- (\w+(?:, \w+)*): ", source)
        if not found:
            raise SystemExit(f"sql/networks/{name}.sql does not begin with the class of its networks: -- CLASS: ...")
        classes[name] = found[1].split(", ")

    def choose(function: str, otherwise: str) -> str:
        branches = "\n".join(
            f"       when sql_diffusion.network_class(config) in ({', '.join(repr(one) for one in classes[name])})\n"
            f"       then sql_diffusion.{function.format(name)}(config)"
            for name in files
        )
        return f"case\n{branches}\n       {otherwise}\n       end"

    known = ", ".join(f"'{one}'" for name in files for one in classes[name])
    plans = "\n  union all\n".join(
        "  select p.step, p.operation, p.key, p.inputs, p.in_channels, p.out_channels, p.level, p.settings\n"
        f"  from sql_diffusion.{name}_plan(config) p\n"
        f"  where sql_diffusion.network_class(config) in ({', '.join(repr(one) for one in classes[name])})"
        for name in files
    )
    return f"""\
-- Made by scripts/dispatchers.py: one branch for each file of sql/networks.

create function sql_diffusion.networks() returns text[]
language sql immutable parallel safe
return array[{known}];
comment on function sql_diffusion.networks() is 'The classes of networks that run, as diffusers and transformers name them.';

create function sql_diffusion.network_config(config jsonb) returns jsonb
language sql immutable strict parallel safe
return {choose("{}_config", "else null")};
comment on function sql_diffusion.network_config(jsonb) is
  'The configuration of a network with the settings that it leaves out filled in as its class does; NULL for a class that is not known.';

create function sql_diffusion.check_network(config jsonb) returns boolean
language sql immutable parallel safe
return {choose("check_{}", "else null")};
comment on function sql_diffusion.check_network(jsonb) is
  'True for a configuration whose every setting is supported, otherwise an error (0A000) that names the first that is not; NULL for a class that is not known.';

create function sql_diffusion.sample_shape(config jsonb) returns int[]
language sql immutable strict parallel safe
return {choose("{}_sample_shape", "else null")};
comment on function sql_diffusion.sample_shape(jsonb) is
  'The shape (channels, height, width) of the samples of a network of this configuration: what it was trained for, others run too.';

create function sql_diffusion.network_plan(config jsonb) returns setof sql_diffusion.plan_step
language sql immutable strict parallel safe rows 60
set jit = off
begin atomic
{plans};
end;
comment on function sql_diffusion.network_plan(jsonb) is
  'The steps of a network of this configuration, in their order, one row a step. All that runs, checks, packs and compares networks reads them.';
"""


def main() -> None:
    if len(sys.argv) < 3 or sys.argv[1] not in ("operations", "networks"):
        raise SystemExit(__doc__)
    files = {Path(name).stem: Path(name).read_text(encoding="utf-8") for name in sys.argv[2:]}
    sys.stdout.write({"operations": operations, "networks": networks}[sys.argv[1]](files))


if __name__ == "__main__":
    main()
