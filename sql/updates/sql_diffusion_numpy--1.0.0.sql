-- From 1.0.0 to the present version: nothing but functions.

set local search_path to pg_catalog, pg_temp;

-- functions
