"""Chat templates that a mergekit file may ask for by name, as Jinja for transformers.

Each writes the conversation as the makers of the format describe it. mergekit 0.1.5 ships files of the
same names; its ``alpaca``, ``exaone`` and ``llama3`` leave stray newlines and blanks of their own layout
in the conversation, which no model of these families was trained on. Ours do not.
"""

from __future__ import annotations

_ALPACA = """\
{%- for message in messages -%}
  {%- set text = message['content'] | trim -%}
  {%- if message['role'] == 'system' -%}
    {{- text + '\\n\\n' -}}
  {%- elif message['role'] == 'user' -%}
    {{- '### Instruction:\\n' + text + '\\n\\n' -}}
  {%- elif message['role'] == 'user_context' -%}
    {{- '### Input:\\n' + text + '\\n\\n' -}}
  {%- elif message['role'] == 'assistant' -%}
    {{- '### Response:\\n' + text + '\\n\\n' -}}
  {%- else -%}
    {{- raise_exception('alpaca has no role ' + message['role']) -}}
  {%- endif -%}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '### Response:\\n' -}}
{%- endif -%}
"""
_CHATML = """\
{%- for message in messages -%}
  {{- '<|im_start|>' + message['role'] + '\\n' + message['content'] + '<|im_end|>\\n' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|im_start|>assistant\\n' -}}
{%- endif -%}
"""
_EXAONE = """\
{%- if messages[0]['role'] != 'system' -%}
  {{- '[|system|][|endofturn|]\\n' -}}
{%- endif -%}
{%- for message in messages -%}
  {%- set end = '\\n' if message['role'] == 'user' else '[|endofturn|]\\n' -%}
  {{- '[|' + message['role'] + '|]' + message['content'] + end -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '[|assistant|]' -}}
{%- endif -%}
"""
_LLAMA3 = """\
{{- bos_token -}}
{%- for message in messages -%}
  {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n' -}}
  {{- message['content'] | trim + '<|eot_id|>' -}}
{%- endfor -%}
{%- if add_generation_prompt -%}
  {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
{%- endif -%}
"""
_MISTRAL = """\
{%- set first = 1 if messages[0]['role'] == 'system' else 0 -%}
{{- bos_token -}}
{%- for message in messages[first:] -%}
  {%- if message['role'] != ('assistant' if loop.index0 % 2 else 'user') -%}
    {{- raise_exception('mistral: user and assistant take turns, after at most one system message') -}}
  {%- endif -%}
  {%- if message['role'] == 'assistant' -%}
    {{- ' ' + message['content'] + eos_token -}}
  {%- else -%}
    {%- set rules = messages[0]['content'] + '\\n\\n' if first and loop.first else '' -%}
    {{- ' [INST] ' + rules + message['content'] + ' [/INST]' -}}
  {%- endif -%}
{%- endfor -%}
"""

#: name -> Jinja text
TEMPLATES = {
    "alpaca": _ALPACA,
    "chatml": _CHATML,
    "exaone": _EXAONE,
    "llama3": _LLAMA3,
    "mistral": _MISTRAL,
}
