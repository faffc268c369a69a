-- Tokenizers: byte-level byte-pair encodings as rows, those of CLIP and of GPT-2.

create table sql_diffusion.tokenizers (
  model      text not null references sql_diffusion.models (name) on update cascade on delete cascade,
  component  text not null,
  config     jsonb not null,
  primary key (model, component)
);
comment on table sql_diffusion.tokenizers is 'One row a tokenizer of a model.';
comment on column sql_diffusion.tokenizers.model is 'the model it belongs to';
comment on column sql_diffusion.tokenizers.component is 'the folder''s name in the checkpoint: tokenizer, tokenizer_2';
comment on column sql_diffusion.tokenizers.config is
  'the tokenizer''s settings, named as in tokenizer_config.json: tokenizer_class (CLIPTokenizer or GPT2Tokenizer), bos_token, eos_token, pad_token, unk_token, each with its _id, model_max_length, '
  'add_prefix_space, and added_tokens_decoder, which has the tokens that are found in a text before anything else: '
  '{"49407": {"content": "<|endoftext|>", "special": true, "normalized": false}, ...}; normalized: it is looked for after the text was normalized';

create table sql_diffusion.vocabulary (
  model      text not null,
  component  text not null,
  id         int not null check (id >= 0),
  token      bytea not null,
  ends_word  boolean not null default false,
  primary key (model, component, id),
  foreign key (model, component) references sql_diffusion.tokenizers (model, component) on update cascade on delete cascade
);
comment on table sql_diffusion.vocabulary is 'One row a token of a tokenizer.';
comment on column sql_diffusion.vocabulary.model is 'the model it belongs to';
comment on column sql_diffusion.vocabulary.component is 'the tokenizer it belongs to';
comment on column sql_diffusion.vocabulary.id is 'its number, counted from 0: what a network is given';
comment on column sql_diffusion.vocabulary.token is 'the bytes, in UTF-8, that it stands for: a token can end inside a character';
comment on column sql_diffusion.vocabulary.ends_word is 'true for a token that only ends words, which vocab.json writes with </w> behind it';

-- The symbols that a word is made of at first.
create unique index vocabulary_bytes on sql_diffusion.vocabulary (model, component, token, ends_word) where length(token) = 1;
comment on index sql_diffusion.vocabulary_bytes is 'The tokens of one byte.';

create table sql_diffusion.merges (
  model      text not null,
  component  text not null,
  first      int not null,
  second     int not null,
  rank       int not null,
  merged     int not null,
  primary key (model, component, first, second),
  foreign key (model, component) references sql_diffusion.tokenizers (model, component) on update cascade on delete cascade
);
comment on table sql_diffusion.merges is
  'One row a merge of a tokenizer (merges.txt): two tokens that become one where they stand beside each other. Sennrich, Haddow, Birch: Neural machine translation of rare words with subword units, 2016.';
comment on column sql_diffusion.merges.model is 'the model it belongs to';
comment on column sql_diffusion.merges.component is 'the tokenizer it belongs to';
comment on column sql_diffusion.merges.first is 'the id of the token on the left';
comment on column sql_diffusion.merges.second is 'the id of the token on the right';
comment on column sql_diffusion.merges.rank is 'its place in the list, counted from 0: of several merges that a word has, the lowest goes first';
comment on column sql_diffusion.merges.merged is 'the id of the token that they become';

-- Sessions keep a tokenizer for as long as its row is the same one, rather than read its hundred thousand rows at each call: so that row is
-- written again with them.
create function sql_diffusion.renew_tokenizer() returns trigger
language plpgsql volatile security definer
set search_path to pg_catalog, pg_temp
as $$
begin
  if tg_op = 'TRUNCATE' then
    update sql_diffusion.tokenizers t set config = t.config where true;
    return null;
  end if;
  update sql_diffusion.tokenizers t
  set config = t.config
  where (t.model, t.component) in (select c.model, c.component from changed c);
  if tg_op = 'UPDATE' then
    update sql_diffusion.tokenizers t
    set config = t.config
    where (t.model, t.component) in (select w.model, w.component from was w except select c.model, c.component from changed c);
  end if;
  return null;
end
$$;
comment on function sql_diffusion.renew_tokenizer() is
  'Trigger of sql_diffusion.vocabulary and sql_diffusion.merges: writes the rows of sql_diffusion.tokenizers again that theirs belong to, by which sessions know what they have read.';
revoke execute on function sql_diffusion.renew_tokenizer() from public;

create trigger renew_insert
  after insert on sql_diffusion.vocabulary
  referencing new table as changed
  for each statement
  execute function sql_diffusion.renew_tokenizer();

create trigger renew_update
  after update on sql_diffusion.vocabulary
  referencing old table as was new table as changed
  for each statement
  execute function sql_diffusion.renew_tokenizer();

create trigger renew_delete
  after delete on sql_diffusion.vocabulary
  referencing old table as changed
  for each statement
  execute function sql_diffusion.renew_tokenizer();

create trigger renew_truncate
  after truncate on sql_diffusion.vocabulary
  for each statement
  execute function sql_diffusion.renew_tokenizer();

create trigger renew_insert
  after insert on sql_diffusion.merges
  referencing new table as changed
  for each statement
  execute function sql_diffusion.renew_tokenizer();

create trigger renew_update
  after update on sql_diffusion.merges
  referencing old table as was new table as changed
  for each statement
  execute function sql_diffusion.renew_tokenizer();

create trigger renew_delete
  after delete on sql_diffusion.merges
  referencing old table as changed
  for each statement
  execute function sql_diffusion.renew_tokenizer();

create trigger renew_truncate
  after truncate on sql_diffusion.merges
  for each statement
  execute function sql_diffusion.renew_tokenizer();

grant select on sql_diffusion.tokenizers, sql_diffusion.vocabulary, sql_diffusion.merges to public;

create function sql_diffusion.tokenizer_config(model text, component text default 'tokenizer') returns jsonb
language sql stable parallel safe
begin atomic
  select case
           when model is null
           then sql_diffusion.fail('model is null, expected the name of a model',
                                   'The models that are loaded: select name from sql_diffusion.models.')
           when not exists (select from sql_diffusion.models m where m.name = tokenizer_config.model)
           then sql_diffusion.fail(format('model "%s" does not exist', model),
                                   'The models that are loaded: select name from sql_diffusion.models.', '42704')
           when not exists (select from sql_diffusion.tokenizers t where t.model = tokenizer_config.model and t.component = tokenizer_config.component)
           then sql_diffusion.fail(format('model "%s" has no tokenizer "%s"', model, coalesce(component, 'null')),
                                   'Those that are loaded: select model, component from sql_diffusion.tokenizers.', '55000')
           when not exists (select from sql_diffusion.vocabulary v where v.model = tokenizer_config.model and v.component = tokenizer_config.component)
           then sql_diffusion.fail(format('model "%s" is unfinished: %s has no vocabulary', model, component), 'Load the model again.', '55000')
         end;
  select t.config
  from sql_diffusion.tokenizers t
  where t.model = tokenizer_config.model
    and t.component = tokenizer_config.component;
end;
comment on function sql_diffusion.tokenizer_config(text, text) is
  'The settings of a model''s tokenizer, sql_diffusion.tokenizers.config. Errors: 42704 for an unknown model, 55000 for a model without that tokenizer, or without its vocabulary.';

create function sql_diffusion.check_tokenizer(component text, config jsonb) returns boolean
language sql immutable parallel safe
return sql_diffusion.check_settings(component, config, array[
  ['tokenizer_class', '"CLIPTokenizer" or "GPT2Tokenizer"', '$ == "CLIPTokenizer" || $ == "GPT2Tokenizer"'],
  ['bos_token_id', 'the id of a token', '$.type() == "number"'],
  ['eos_token_id', 'the id of a token', '$.type() == "number"'],
  ['pad_token_id', 'the id of a token, or null', '$.type() == "number" || $ == null'],
  ['unk_token_id', 'the id of a token, or null', '$.type() == "number" || $ == null'],
  ['model_max_length', 'an integer of at least 3, or null', '$ == null || $ >= 3 && $ <= 1000000 && $.floor() == $'],
  ['add_prefix_space', 'true or false', '$.type() == "boolean"'],
  ['added_tokens_decoder', 'an object', '$.type() == "object"']
]);
comment on function sql_diffusion.check_tokenizer(text, jsonb) is
  'True for the settings of a tokenizer that is run, otherwise an error (0A000) that names the first setting that is not supported. component opens the message.';

alter table sql_diffusion.tokenizers
  add constraint tokenizers_supported check (sql_diffusion.check_tokenizer(component, config));
