-- What an update from an older version does by hand; scripts/update_script.py makes the rest.

-- A view may show image_png as it was. It goes on doing so: that function is image_png without compression now.
-- @extschema@.image_png(real[], integer) is now sql_diffusion.image_png_stored

-- in place of create table sql_diffusion.models:
alter table sql_diffusion.models alter column scheduler drop not null;

-- in place of create table sql_diffusion.parameters:
-- PostgreSQL writes the whole table anew, once for all of this.
alter table sql_diffusion.parameters
  add check (sql_diffusion.check_tensor(weight, 'parameters: weight')),
  add check (bias is null or sql_diffusion.check_tensor(bias, 'parameters: bias', 'out')),
  add column weight_shape int[] generated always as (sql_diffusion.shape(weight)) stored,
  add column bias_shape int[] generated always as (sql_diffusion.shape(bias)) stored;

-- first:
select sql_diffusion.fail('a model is named "prompted-butterflies", as the one that this version brings is', 'Give it another name first: update sql_diffusion.models set name = ''...'' where name = ''prompted-butterflies''', '55000')
where exists (select from sql_diffusion.models m where m.name = 'prompted-butterflies');

-- first, from 1.0.0:
alter table sql_diffusion.packed_kernels reset (fillfactor, parallel_workers);

-- last:
-- A kernel of one pixel is the same for images of every width, and says so.
update sql_diffusion.packed_layers l
set row_stride = 1
from sql_diffusion.parameters p
where (p.model, p.component, p.key) = (l.model, l.component, l.key)
  and coalesce(p.weight_shape[3], 1) = 1
  and l.row_stride <> 1;

-- last, from 1.0.0:
-- The bundled model's schedule, unless somebody has given it another.
update sql_diffusion.models
set defaults = '{"scheduler": "ddpm", "timesteps": [800, 750, 700, 650, 600, 550, 500, 450, 400, 350, 300, 240, 170, 90, 0]}'
where bundled
  and defaults = '{"scheduler": "ddpm", "num_inference_steps": 20}';
