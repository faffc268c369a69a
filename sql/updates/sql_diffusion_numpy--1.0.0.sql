-- From 1.0.0 to the present version: nothing but functions.

set local search_path to pg_catalog, pg_temp;

alter function sql_diffusion_numpy.scaled_dot_product_attention(real[],real[],real[]) rename to scaled_dot_product_attention_of_1_0_0;

-- functions

drop function sql_diffusion_numpy.scaled_dot_product_attention_of_1_0_0(real[],real[],real[]);
