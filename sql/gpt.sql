-- Text from a text: a language model says how probable each token is as the next one, and the loop takes one, appends it and asks again.
-- Language Models are Unsupervised Multitask Learners (Radford et al., 2019), section 2; the settings are those of transformers' generate.

create function sql_diffusion.default_gpt_model() returns text
language sql stable parallel safe
return coalesce(nullif(current_setting('sql_diffusion.model', true), ''),
                (select min(c.model collate "C") from sql_diffusion.components c where sql_diffusion.network_class(c.config) = 'GPT2LMHeadModel'),
                sql_diffusion.default_model());
comment on function sql_diffusion.default_gpt_model() is
  'The model that gpt_next and gpt_generate use where none is named: the setting sql_diffusion.model, else the first by name of those that write text.';

create function sql_diffusion.gpt_component(model text) returns text
language sql stable parallel safe
begin atomic
  select sql_diffusion.component_config(model, coalesce((select min(c.component collate "C") from sql_diffusion.components c where c.model = gpt_component.model), 'transformer'));
  select coalesce((select min(c.component collate "C") from sql_diffusion.components c where c.model = gpt_component.model and sql_diffusion.network_class(c.config) = 'GPT2LMHeadModel'),
                  sql_diffusion.fail(format('model "%s" writes no text, expected one that has a GPT2LMHeadModel', model),
                                     'The models that do: select model from sql_diffusion.components where config #>> ''{architectures,0}'' = ''GPT2LMHeadModel''.')::text);
end;
comment on function sql_diffusion.gpt_component(text) is
  'The component of a model that is a language model. Errors: 22023 for a model that writes no text, 42704 for an unknown one.';

create type sql_diffusion.gpt_settings as (
  component  text,
  input_ids  int[],
  stop_id    int
);
comment on type sql_diffusion.gpt_settings is
  'What a call of gpt_generate comes to: the component that is the language model, the tokens of the prompt, and the token that ends the text (NULL for none).';

create function sql_diffusion.gpt_settings(input_ids int[], model text, component text, max_new_tokens int default 0, temperature double precision default 1, top_k int default null, top_p double precision default null,
    seed bigint default 0, repetition_penalty double precision default 1, stop text default null) returns sql_diffusion.gpt_settings
language sql stable parallel safe
begin atomic
  with network as (
    select sql_diffusion.network_config(sql_diffusion.component_config(model, component)) as config
  ),
  ending as (
    select array_agg(v.id order by v.id) as ids
    from sql_diffusion.vocabulary v
    where v.model = gpt_settings.model
      and v.component = 'tokenizer'
      and v.token = convert_to(stop, 'UTF8')
  )
  select row(component, input_ids, case when stop is null then (n.config ->> 'eos_token_id')::int else e.ids[1] end)::sql_diffusion.gpt_settings
  from network n, ending e
  where case
        when max_new_tokens is null or max_new_tokens < 0
        then sql_diffusion.fail(format('max_new_tokens is %s, expected at least 0', coalesce(max_new_tokens::text, 'null')))
        when temperature is null or not (temperature = 0 or temperature between 1e-30 and 1e30)
        then sql_diffusion.fail(format('temperature is %s, expected 0 or a number from 1e-30 to 1e30', coalesce(temperature::text, 'null')), 'At 0 the most probable token is taken.')
        when top_k < 1
        then sql_diffusion.fail(format('top_k is %s, expected at least 1', top_k))
        when not (top_p > 0 and top_p <= 1)
        then sql_diffusion.fail(format('top_p is %s, expected above 0 and at most 1', top_p))
        when seed is null
        then sql_diffusion.fail('seed is null, expected an integer')
        when repetition_penalty is null or not repetition_penalty between 1e-30 and 1e30
        then sql_diffusion.fail(format('repetition_penalty is %s, expected a number from 1e-30 to 1e30', coalesce(repetition_penalty::text, 'null')))
        when stop is not null and e.ids is null
        then sql_diffusion.fail(format('stop is %L, which is no token of model "%s"', stop, model), 'A text ends with one token: NULL for the model''s own.')
        when cardinality(input_ids) = 0
        then sql_diffusion.fail('prompt has no tokens, expected at least one', 'Where a text is to begin, GPT-2 knows by the token <|endoftext|>.')
        when max_new_tokens > (n.config ->> 'n_positions')::int - cardinality(input_ids)  -- whose sum may be no int
        then sql_diffusion.fail(format('prompt has %s tokens', cardinality(input_ids)) || case max_new_tokens when 0 then '' else format(' and max_new_tokens is %s', max_new_tokens) end
                                                || format(', expected at most %s', n.config ->> 'n_positions') || case max_new_tokens when 0 then '' else ' together' end)
        when (select max(id) from unnest(input_ids) id) >= (n.config ->> 'vocab_size')::int
        then sql_diffusion.fail(format('prompt has the token %s, expected tokens below %s, the vocab_size of model "%s"', (select max(id) from unnest(input_ids) id), n.config ->> 'vocab_size', model),
                                                'The tokenizer is not that of the network: load the model again.', '55000')
        else true
        end;
end;
comment on function sql_diffusion.gpt_settings(int[], text, text, int, double precision, int, double precision, bigint, double precision, text) is
  'The settings that gpt_next and gpt_generate follow with these arguments, the prompt as tokens and the component that gpt_component names; both backends read them. Errors: 22023 for an argument that cannot be.';

-- Fewer rows than a vocabulary has: with all of them the planner holds gpt_generate's query for dear enough to be compiled (jit), NumPy's too.
create function sql_diffusion.next_tokens(logits real[], input_ids int[], temperature double precision, top_k int, top_p double precision, repetition_penalty double precision)
  returns table (rank int, token_id int, probability double precision)
language sql immutable parallel safe rows 5000
set jit = off
begin atomic
  -- A token that was there already is made less probable: CTRL (Keskar et al., arXiv 1909.05858), section 4.1.
  with penalized as (
    select (l.n - 1)::int as token_id,
           case when s.id is null then l.logit when l.logit < 0 then l.logit * repetition_penalty else l.logit / repetition_penalty end
           / case temperature when 0 then 1 else temperature end as logit
    from unnest(logits) with ordinality as l (logit, n)
         left join (select distinct i.id from unnest(input_ids) i (id)) s on s.id = l.n - 1
  ),
  ranked as (
    select p.token_id, p.logit,
           row_number() over (order by p.logit desc, p.token_id)::int as rank,
           rank() over (order by p.logit desc) as place,                                  -- the same for equals
           exp(greatest(p.logit - max(p.logit) over (), -700)) as weight
    from penalized p
  ),
  kept as (
    select r.token_id, r.rank, r.weight, coalesce(sum(r.weight) over (order by r.rank rows between unbounded preceding and 1 preceding), 0) / sum(r.weight) over () as better
    from ranked r
    where case when temperature = 0 then r.rank = 1 else top_k is null or r.place <= top_k end
  )
  select k.rank, k.token_id, k.weight / sum(k.weight) over ()
  from kept k
  where top_p is null
     or top_p = 1
     or k.better < top_p
  order by k.rank;
end;
comment on function sql_diffusion.next_tokens(real[], int[], double precision, int, double precision, double precision) is
  'The tokens that may come next and their probabilities, which sum to 1, the best first: softmax of the logits (vocabulary) after what transformers'' generate does to them, in its order. Logits of tokens that are in input_ids are '
  'divided by repetition_penalty, or multiplied where they are below 0; all are divided by temperature (0: the best token alone is kept); of the top_k best (NULL: all) those are kept before which the sum of probabilities is below top_p '
  '(The Curious Case of Neural Text Degeneration, Holtzman et al., arXiv 1904.09751, section 3.1).';

create function sql_diffusion.tokens_text(ids int[], model text) returns text
language sql stable parallel safe
begin atomic
  with special as materialized (
    select array_agg(a.id::int) as ids
    from sql_diffusion.tokenizers t,
         jsonb_each(t.config -> 'added_tokens_decoder') a (id, token)
    where t.model = tokens_text.model
      and t.component = 'tokenizer'
      and (a.token ->> 'special')::boolean
  )
  select coalesce(convert_from(sql_diffusion.utf8_lossy(string_agg(v.token, '' order by i.place)), 'UTF8'), '')
  from unnest(tokens_text.ids) with ordinality as i (id, place)
       join sql_diffusion.vocabulary v on v.id = i.id
  where v.model = tokens_text.model
    and v.component = 'tokenizer'
    and i.id <> all (coalesce((select s.ids from special s), '{}'));
end;
comment on function sql_diffusion.tokens_text(int[], text) is
  'The text of tokens as far as it goes: without special ones, and with U+FFFD for a zero byte and where they end inside a character.';

create function sql_diffusion.gpt_next(prompt text, model text, top_k int default null)
  returns table (rank int, token_id int, token text, probability double precision)
language sql stable parallel safe rows 50000
begin atomic
  with chosen as materialized (
    select sql_diffusion.gpt_settings(case when c.component <> '' then sql_diffusion.tokenize(prompt, model) end, model, c.component, top_k => gpt_next.top_k) as settings
    from (select sql_diffusion.gpt_component(model) as component offset 0) c
  ),
  output as materialized (
    select sql_diffusion.vector_of_maps(r.hidden) as logits
    from chosen c,
         sql_diffusion.run_network(array[row('input_ids', (c.settings).input_ids::real[]),
                                         row('position_ids', array(select generate_series(0, cardinality((c.settings).input_ids) - 1))::real[])]::sql_diffusion.network_input[],
                                   model, (c.settings).component) r
    where r.operation = 'output'
      and r.key = 'logits'
  )
  select n.rank, n.token_id, convert_from(sql_diffusion.utf8_lossy(v.token), 'UTF8'), n.probability
  from output o
       cross join sql_diffusion.next_tokens(o.logits, '{}', 1, null, null, 1) n
       left join sql_diffusion.vocabulary v on v.model = gpt_next.model and v.component = 'tokenizer' and v.id = n.token_id
  where n.rank <= gpt_next.top_k
     or gpt_next.top_k is null
  order by n.rank;
end;
comment on function sql_diffusion.gpt_next(text, text, int) is
  'What may come after a prompt in pure SQL: the tokens, the most probable first, all or the top_k first.';

create function sql_diffusion.gpt_generate(prompt text, max_new_tokens int, model text, temperature double precision default 0, top_k int default null, top_p double precision default null,
    seed bigint default 0, repetition_penalty double precision default 1, stop text default null)
  returns table ("position" int, token_id int, token text, text text)
language sql stable parallel safe rows 20
begin atomic
  with recursive
  began as materialized (
    select clock_timestamp() as instant
  ),
  chosen as materialized (
    select sql_diffusion.gpt_settings(case when c.component <> '' then sql_diffusion.tokenize(prompt, model) end, model, c.component,
                                      max_new_tokens, temperature, top_k, top_p, seed, repetition_penalty, stop) as settings
    from (select sql_diffusion.gpt_component(model) as component offset 0) c
  ),
  -- Made once: the network's steps, and a number from 0 to 1 for each token that is drawn.
  network as materialized (
    select sql_diffusion.pass(array_agg(p order by p.step)) as pass,
           (select array_agg((word & 16777215) / 16777216::double precision) from unnest((sql_diffusion.random_words(sql_diffusion.manual_seed(seed), max_new_tokens)).words) word) as drawn
    from chosen c, sql_diffusion.plan(model, (c.settings).component) p
    where sql_diffusion.check_model(model)
  ),
  -- In the first pass all tokens of the prompt go in, then each time the one that was taken, and with it the keys and values of those before.
  run (place, input_ids, position_ids, past_names, past, ids, token_id) as (
    select 0, (c.settings).input_ids, array(select generate_series(0, cardinality((c.settings).input_ids) - 1)), '{}'::text[], '{}'::sql_diffusion.feature_maps[], (c.settings).input_ids, null::int
    from chosen c
    union all
    select run.place + 1, array[taken.token_id], array[cardinality(run.ids)], passed.past_names, passed.past, run.ids || taken.token_id, taken.token_id
    from run
         cross join chosen c
         cross join network
         cross join lateral (
           select array_agg(u.key order by u.step) filter (where u.key <> 'logits') as past_names,
                  array_agg(u.hidden order by u.step) filter (where u.key <> 'logits') as past,
                  (array_agg(u.hidden order by u.step) filter (where u.key = 'logits'))[1] as logits
           from sql_diffusion.run_pass(network.pass, '{input_ids,position_ids}'::text[] || run.past_names,
                                       array[sql_diffusion.vector_to_maps(run.input_ids::real[]), sql_diffusion.vector_to_maps(run.position_ids::real[])] || run.past, model, (c.settings).component) u
           where u.operation = 'output'
             and u.key not like 'hidden_states.%'
           offset 0
         ) passed
         cross join lateral (
           select n.token_id
           from (select t.token_id, t.rank, sum(t.probability) over (order by t.rank) as reached
                 from sql_diffusion.next_tokens(sql_diffusion.vector_of_maps(passed.logits), run.ids, temperature, top_k, top_p, repetition_penalty) t) n
           order by n.reached > network.drawn[run.place + 1] desc, n.rank
           limit 1
         ) taken
    where run.place < max_new_tokens
      and (run.place = 0 or run.token_id is distinct from (c.settings).stop_id)
  )
  select cardinality(r.ids) - 1, r.token_id, (select convert_from(sql_diffusion.utf8_lossy(v.token), 'UTF8') from sql_diffusion.vocabulary v where v.model = gpt_generate.model and v.component = 'tokenizer' and v.id = r.token_id limit 1),
         sql_diffusion.tokens_text(r.ids, model)
  from run r
  where r.place > 0
    and sql_diffusion.tell_progress(r.place, max_new_tokens, extract(epoch from clock_timestamp() - (select b.instant from began b))::double precision);
end;
comment on function sql_diffusion.gpt_generate(text, int, text, double precision, int, double precision, bigint, double precision, text) is
  'What a model writes after a prompt in pure SQL, one row a token as it is made. A pass reads the new token alone: of those before it has the keys and values.';
