-- Tokenizers in the tables: one of a few tokens, put in by hand.
\set SHOW_CONTEXT never
set search_path to sql_diffusion, public;
set bytea_output to escape;

insert into models (name, pipeline, scheduler) values ('tiny', 'DDPMPipeline', '{"_class_name": "DDPMScheduler"}');
insert into tokenizers (model, component, config)
select 'tiny', c.component,
  jsonb_build_object('tokenizer_class', c.class, 'bos_token_id', 90, 'eos_token_id', 91, 'pad_token_id', 0, 'unk_token_id', 91, 'model_max_length', 8, 'add_prefix_space', false,
    'added_tokens_decoder', '{"90": {"content": "<s>", "special": true, "normalized": false}, "91": {"content": "</s>", "special": true, "normalized": true}}'::jsonb)
from (values ('tokenizer', 'CLIPTokenizer'), ('tokenizer_2', 'GPT2Tokenizer')) c (component, class);
insert into vocabulary (model, component, id, token, ends_word)
select 'tiny', t.component, v.id, v.token, v.ends_word and t.component = 'tokenizer'
from (values ('tokenizer'), ('tokenizer_2')) t (component),
  (values (1, 'l'::bytea, false), (2, 'o', false), (3, 'w', false), (4, 'e', false), (5, 'r', false), (6, ' ', false),
          (11, 'l', true), (12, 'o', true), (13, 'w', true), (14, 'e', true), (15, 'r', true),
          (20, 'lo', false), (21, 'low', false), (22, 'low', true), (23, 'er', true), (24, 'er', false), (25, 'we', false), (90, '<s>', false), (91, '</s>', false)) v (id, token, ends_word)
where t.component = 'tokenizer' or not v.ends_word;
insert into merges (model, component, first, second, rank, merged)
values ('tiny', 'tokenizer', 1, 2, 0, 20), ('tiny', 'tokenizer', 20, 13, 1, 22), ('tiny', 'tokenizer', 4, 15, 2, 23), ('tiny', 'tokenizer', 20, 3, 3, 21),
       ('tiny', 'tokenizer_2', 3, 4, 0, 25), ('tiny', 'tokenizer_2', 1, 2, 1, 20), ('tiny', 'tokenizer_2', 4, 5, 2, 24), ('tiny', 'tokenizer_2', 20, 3, 3, 21);

-- start, the tokens, end, padding: low</w>; l o w er</w>
select tokenize('LOW', 'tiny'), tokenize('low  lower', 'tiny'), tokenize('', 'tiny');
select tokenize('low  lower', 'tiny', padding => false) as unpadded;
-- seven words, of which six are kept; and all of them
select tokenize('low low low low low low low', 'tiny');
select tokenize('low low low low low low low', 'tiny', truncation => false);
-- GPT-2: words begin with their space, and here w e goes before l o
select tokenize('low lower', 'tiny', 'tokenizer_2'), tokenize('', 'tiny', 'tokenizer_2');
-- tokens that are named in the text; a byte without a token is unk_token for one and nothing for the other
select tokenize('<s>low</S>', 'tiny'), tokenize('<s>low</s>x', 'tiny', 'tokenizer_2');
select tokenize('x', 'tiny');

-- and back
select detokenize('{90,22,20,3,23,91,91}', 'tiny') as "all", detokenize('{90,22,20,3,23,91,91}', 'tiny', skip_special_tokens => true) as skipped;
select detokenize('{21,6,20,25,5}', 'tiny', 'tokenizer_2'), detokenize_bytes('{21,6,20,25,5}', 'tiny', 'tokenizer_2'), detokenize('{}', 'tiny');
select detokenize('{22,7}', 'tiny');

-- half a character, and what comes of bytes that are no text
insert into vocabulary (model, component, id, token) values ('tiny', 'tokenizer_2', 100, '\xc3'), ('tiny', 'tokenizer_2', 101, '\xa9');
select detokenize_bytes('{100}', 'tiny', 'tokenizer_2') as half, encode(convert_to(detokenize('{100,101}', 'tiny', 'tokenizer_2'), 'UTF8'), 'hex') as whole,
  encode(convert_to(detokenize('{100,1}', 'tiny', 'tokenizer_2'), 'UTF8'), 'hex') as broken;

-- what the table refuses
update tokenizers set config = config || '{"tokenizer_class": "BertTokenizer"}' where model = 'tiny';
update tokenizers set config = config || '{"model_max_length": 2}' where model = 'tiny';

-- they go with their model
delete from models where name = 'tiny';
select (select count(*) from tokenizers where model = 'tiny') as tokenizers, (select count(*) from vocabulary where model = 'tiny') as vocabulary, (select count(*) from merges where model = 'tiny') as merges;
