-- What all U-Nets have in common (Ronneberger et al. 2015, arXiv 1505.04597, figure 1; as diffusers lays it out): blocks that go down in size,
-- one in the middle, blocks that come up again, each layer of which takes beside the result before it that of a layer on the way down.

create function sql_diffusion.unet_layout(block_out_channels int[], down_block_types text[], up_block_types text[], mid_block_attends boolean, layers_per_block int, any_size boolean default false)
  returns table (place int[], part text, block_type text, key text, label text, inputs text[], in_channels int, out_channels int, level int)
language sql immutable parallel safe rows 60
begin atomic
  with size as (
    select cardinality(block_out_channels) as levels,
           layers_per_block as layers
  ),
  down_block as (
    select l.level, l.level as block, down_block_types[l.level + 1] as type, down_block_types[l.level + 1] like '%Attn%' as attends,
           block_out_channels[greatest(l.level, 1)] as in_channels, block_out_channels[l.level + 1] as out_channels
    from size, generate_series(0, size.levels - 1) as l (level)
  ),
  up_block as (
    select l.level, size.levels - 1 - l.level as block, up_block_types[size.levels - l.level] as type, up_block_types[size.levels - l.level] like '%Attn%' as attends,
           block_out_channels[least(l.level + 2, size.levels)] as in_channels, block_out_channels[l.level + 1] as out_channels, block_out_channels[greatest(l.level, 1)] as last_skip_channels
    from size, generate_series(0, size.levels - 1) as l (level)
  ),
  -- Each layer on the way down, each halving and the first convolution are a skip: skip 0 is the convolution's.
  part (place, part, block_type, key, label, inputs, in_channels, out_channels, level) as (
    select array[3, b.block, n, 1], 'resnet', b.type, format('down_blocks.%s.resnets.%s', b.block, n),
           case when b.attends then format('down_blocks.%s.resnets.%s', b.block, n) else format('skip %s', 1 + b.block * (layers + 1) + n) end, array[null, 'temb'],
           case n when 0 then b.in_channels else b.out_channels end, b.out_channels, b.level
    from size, down_block b, generate_series(0, layers - 1) as n
    union all
    select array[3, b.block, n, 2], 'attention', b.type, format('down_blocks.%s.attentions.%s', b.block, n), format('skip %s', 1 + b.block * (layers + 1) + n), array[null],
           b.out_channels, b.out_channels, b.level
    from size, down_block b, generate_series(0, layers - 1) as n
    where b.attends
    union all
    select array[3, b.block, layers, 3], 'downsample', b.type, format('down_blocks.%s.downsamplers.0', b.block), format('skip %s', (b.block + 1) * (layers + 1)), array[null],
           b.out_channels, b.out_channels, b.level + 1
    from size, down_block b
    where b.level < levels - 1

    union all
    select array[4, 0, n, 1], 'resnet', 'middle', format('mid_block.resnets.%s', n), format('mid_block.resnets.%s', n), array[null, 'temb'],
           block_out_channels[levels], block_out_channels[levels], levels - 1
    from size, generate_series(0, 1) as n
    where mid_block_attends is not null
    union all
    select array[4, 0, 0, 2], 'attention', 'middle', 'mid_block.attentions.0', null, array[null],
           block_out_channels[levels], block_out_channels[levels], levels - 1
    from size
    where mid_block_attends

    union all
    select array[5, b.block, n, 0], 'concatenate', b.type, null, null, array[null, format('skip %s', levels * (layers + 1) - 1 - (b.block * (layers + 1) + n))],
           case n when 0 then b.in_channels else b.out_channels end, entry.channels, b.level
    from size, up_block b, generate_series(0, layers) as n,
         lateral (select case n when 0 then b.in_channels else b.out_channels end + case n when layers then b.last_skip_channels else b.out_channels end as channels) entry
    union all
    select array[5, b.block, n, 1], 'resnet', b.type, format('up_blocks.%s.resnets.%s', b.block, n), format('up_blocks.%s.resnets.%s', b.block, n), array[null, 'temb'],
           case n when 0 then b.in_channels else b.out_channels end + case n when layers then b.last_skip_channels else b.out_channels end, b.out_channels, b.level
    from size, up_block b, generate_series(0, layers) as n
    union all
    select array[5, b.block, n, 2], 'attention', b.type, format('up_blocks.%s.attentions.%s', b.block, n), null, array[null],
           b.out_channels, b.out_channels, b.level
    from size, up_block b, generate_series(0, layers) as n
    where b.attends
    union all
    -- of any size: as high and wide as the skip that the next block begins with
    select array[5, b.block, layers + 1, 3], 'upsample', b.type, format('up_blocks.%s.upsamplers.0', b.block), null,
           case when any_size then array[null, format('skip %s', levels * (layers + 1) - 1 - (b.block + 1) * (layers + 1))] else array[null] end, b.out_channels, b.out_channels, b.level - 1
    from size, up_block b
    where b.level > 0
  )
  select p.place, p.part, p.block_type, p.key, p.label, p.inputs, p.in_channels, p.out_channels, p.level
  from part p;
end;
comment on function sql_diffusion.unet_layout(int[], text[], text[], boolean, int, boolean) is
  'The parts of a U-Net between its first and its last convolution, one row a part (resnet, attention, downsample, concatenate or upsample), as rows of plan_draft without an operation: blocks whose '
  'type has Attn in its name attend, the one in the middle where mid_block_attends (NULL for no such block). It takes from outside the steps labelled "skip 0", the first convolution, and "temb", the time embedding. A resnet before attention is labelled with its key. any_size: an upsample takes the skip behind it, too, and becomes as high and wide.';
