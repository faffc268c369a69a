"""Every function of schema sql_diffusion that computes has its twin in schema sql_diffusion_numpy; those that run networks
have one in schema sql_diffusion_torch too."""

from __future__ import annotations

from pathlib import Path

from psycopg import Connection

pytest_plugins = ["numpy_server"]

# Functions without a twin, by what they are.
NOT_COMPUTING = [
    # checks, which the twins call or say again
    "fail", "check_%",
    # what is read of tables and configurations
    "autoencoder", "latent_channels", "plan_part", "choose_backend", "component_config", "default_model", "sample_shape", "scheduler_config", "scheduler_name", "scheduler_names", "scheduler_of",
    "schedulers", "training_timestep", "tokenizer_config", "warn_truncated", "renew_tokenizer", "bundled_model", "default_text_model", "text_to_image_settings", "redraw_settings", "decoder", "encoded_channels",
    "default_gpt_model", "gpt_component", "gpt_settings",
    # networks as rows
    "network_class", "network_config", "network_convolutions", "network_parameters", "networks", "operations", "operation_modules", "plan", "pass", "%\\_plan", "%\\_config", "%\\_sample_shape", "%\\_modules", "%\\_draft", "number_steps", "act_fn_rule", "activation", "activation_settings", "unet_layout", "image_shape",
    "setting_of_level", "deepest_level", "input_maps", "step_tensor", "unet_inputs",
    # schedules, which are computed in one place, SQL
    "%\\_schedule", "%\\_scheduler", "%\\_timesteps", "noise_schedule_core", "original_of_%", "schedule_of", "schedule_row", "scheduler_rows", "interpolated_sigma", "sigma_steps",
    "timestep_of_sigma", "unipc_weights",
    # weights as pure SQL wants them
    "pack", "unpack%", "weight_from_bytes", "numbers_from_bytes%", "write_parameter",
    # progress, which the other backend tells by itself
    "notice", "tell_progress", "tells_progress",
    # the queue, which calls the verbs
    "%\\_job", "%\\_jobs", "job_settings", "extend_lease", "enqueue", "tell_finished", "tell_queued", "work",
    # the way to the other backend
    "numpy_%",
    # steps of reading and writing PNGs and of resizing, most of which are zlib's own work there
    "adler32", "crc32", "deflate_%", "huffman_%", "image_bytes", "image_levels", "image_png_stored", "inflate_%", "png_%", "resize_%", "resizes_%",
    "reversed_bits", "zlib_%",
]  # fmt: skip

# Steps of a computation that SQL cuts into functions of its own: of the layer whose name they begin with, and these.
STEPS = [
    "array_cat_agg", "attention_columns", "attention_core", "attention_heads%", "attention_numbers", "conv2d_%", "embedding_%", "gelu_factor", "group_norm_%", "layer_norm_%", "linear_%",
    "%\\_of_maps", "activated", "activated_maps", "vector_to_maps", "resample_maps", "to_maps", "from_maps", "join_maps", "fold", "linspace", "mt19937_%", "normals_by_%", "numel", "product", "random_words", "run_%", "scaled", "shape", "shares_of", "slots",
    "transpose", "with_shape", "worth_workers", "worth_two_workers",
    # of text_to_image
    "encode_prompt", "prompt_condition", "prompt_conditions", "guidance", "sample_steps",
    # of redraw
    "begin_with_noise", "binary_mask", "each_nth", "encode_picture", "keep_original", "redraw_beginning", "with_label",
    # of gpt_next and gpt_generate
    "append_tokens", "causal_attention", "next_tokens", "tokens_text",
    # of tokenize and detokenize
    "byte_pair_encoding", "clip_normalize", "nfc%", "split_%", "tokenizer_words", "unicode_%", "utf8%",
]  # fmt: skip

# What only the NumPy extension has.
OWN = ["start", "cache_dir", "setting_limit", "doctor", "check_painter"]

# All but parallel safety: PL/Python can run no query in a parallel plan before PostgreSQL 17.
SIGNATURES = """
select p.proname,
       pg_get_function_arguments(p.oid),
       pg_get_function_result(p.oid),
       p.prokind, p.provolatile, p.proisstrict, p.proretset, p.prorows, p.proleakproof, p.prosecdef
from pg_proc p
where p.pronamespace = %s::regnamespace
  and not p.proname like any(%s)
order by p.proname, 2
"""


def test_twins(numpy_connection: Connection) -> None:
    ours = numpy_connection.execute(SIGNATURES, ["sql_diffusion_numpy", OWN]).fetchall()
    theirs = numpy_connection.execute(SIGNATURES, ["sql_diffusion", NOT_COMPUTING + STEPS]).fetchall()
    assert len(ours) > 30
    assert {row[0] for row in ours} == {row[0] for row in theirs}
    for our, their in zip(ours, theirs, strict=True):
        assert our == their


def test_what_runs_networks_has_a_twin_in_torch(numpy_connection: Connection) -> None:
    ours = numpy_connection.execute(
        SIGNATURES, ["sql_diffusion_torch", ["empty_cache", "settings", "check_painter"]]
    ).fetchall()
    theirs = numpy_connection.execute(SIGNATURES, ["sql_diffusion_numpy", OWN]).fetchall()
    assert set(ours) <= set(theirs)
    verbs = numpy_connection.execute(
        """select p.proname from pg_proc p
           where p.pronamespace = 'public'::regnamespace and 'backend' = any(p.proargnames) and p.proname not like 'image\\_%'"""
    )
    called = {row[0] for row in verbs.fetchall()} - {"inpaint", "inpaint_steps", "upscale", "upscale_steps"}  # redraw's
    assert called <= {row[0] for row in ours}
    assert {"unet", "redraw", "redraw_steps", "text_encoder", "vae_decode", "vae_encode"} <= {row[0] for row in ours}


def test_no_function_in_python_goes_into_a_parallel_plan(numpy_connection: Connection) -> None:
    query = """
        select distinct p.proparallel
        from pg_proc p
             join pg_language l on l.oid = p.prolang
        where l.lanname = 'plpython3u'
    """
    assert numpy_connection.execute(query).fetchall() == [("u",)]


def test_every_function_is_explained(numpy_connection: Connection) -> None:
    rows = numpy_connection.execute(
        """select p.oid::regprocedure::text
           from pg_proc p
           where p.pronamespace in ('sql_diffusion_numpy'::regnamespace, 'sql_diffusion_torch'::regnamespace)
             and obj_description(p.oid, 'pg_proc') is null"""
    ).fetchall()
    assert rows == []


def test_the_script_holds_the_source_and_nothing_is_read_from_files(
    numpy_connection: Connection, tmp_path: Path
) -> None:
    """A package of the same name in Python's path does not get in the way."""
    (tmp_path / "sql_diffusion_numpy").mkdir()
    (tmp_path / "sql_diffusion_numpy" / "__init__.py").write_text("raise RuntimeError('planted')")
    numpy_connection.execute(
        """create function planted(path text) returns void language plpython3u
           as $$import sys; sys.path.insert(0, path)$$"""
    )
    numpy_connection.execute("select planted(%s)", [str(tmp_path)])
    numpy_connection.execute("select sql_diffusion_numpy.silu('{1}')")
    numpy_connection.execute(
        """create function module_files() returns setof text language plpython3u as
           $$
import sys
return [getattr(m, "__file__", None) for n, m in sys.modules.items() if n.startswith("sql_diffusion")]
$$"""
    )
    files = [row[0] for row in numpy_connection.execute("select module_files()").fetchall()]
    assert len(files) > 20
    assert set(files) == {None}
