-- The last lines of the install script: the bundled model comes packed.
select sql_diffusion.pack(m.name) from sql_diffusion.models m where m.bundled;
