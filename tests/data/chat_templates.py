"""Chat templates with the habits of published ones, in as few words as show them.

qwen3         thoughts of earlier turns are left out, the last answer gets an empty thought
qwen3_vl      pieces, no system turn of its own
gemma         the assistant is called `model`; no system turn; turns alternate, or it refuses
llama3        BOS is the template's, texts are trimmed
mistral       a system turn is written into the last turn of the user
smollm3       a date
vicuna        texts only, blanks between turns
no_end        LLaVA 1.5 as llava-hf has it: answers end with a blank and no token
"""

_IM = "<|im_start|>{{ m.role }}\n"
_ASK = "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
_EACH = "{% for m in messages %}"

QWEN3 = (
    "{% set asked = namespace(at=0) %}{% for m in messages %}{% if m.role == 'user' %}"
    "{% set asked.at = loop.index0 %}{% endif %}{% endfor %}" + _EACH + _IM + "{% set text = m.content %}"
    "{% if m.role == 'assistant' %}{% set text = text.split('</think>')[-1].lstrip('\\n') %}"
    "{% if loop.index0 > asked.at %}<think>\n\n</think>\n\n{% endif %}{% endif %}{{ text }}<|im_end|>\n"
    "{% endfor %}" + _ASK
)
QWEN3_VL = (
    _EACH + _IM + "{% if m.content is string %}{{ m.content }}{% else %}{% for piece in m.content %}"
    "{% if piece.type == 'image' %}<|vision_start|><|image_pad|><|vision_end|>"
    "{% elif 'text' in piece %}{{ piece.text }}{% endif %}{% endfor %}{% endif %}<|im_end|>\n{% endfor %}"
    + _ASK
)
GEMMA = (
    "{{ bos_token }}{% if messages[0].role == 'system' %}{{ raise_exception('System role not supported') }}"
    "{% endif %}" + _EACH + "{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}"
    "<start_of_turn>{{ 'model' if m.role == 'assistant' else m.role }}\n{{ m.content | trim }}<end_of_turn>\n"
    "{% endfor %}{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
LLAMA3 = (
    _EACH + "{% if loop.first %}{{ bos_token }}{% endif %}"
    "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}<|eot_id|>{% endfor %}"
    "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
)
MISTRAL = (
    "{% set system = '' %}{% if messages[0].role == 'system' %}{% set system = messages[0].content ~ '\n\n' %}"
    "{% set messages = messages[1:] %}{% endif %}{{ bos_token }}" + _EACH + "{% if m.role == 'user' %}"
    "[INST] {{ system if loop.index0 >= messages | length - 2 and messages[-1] is not none else '' }}"
    "{{ m.content }}[/INST]{% else %} {{ m.content | trim }}{{ eos_token }}{% endif %}{% endfor %}"
)
SMOLLM3 = "<|im_start|>system\nToday is {{ strftime_now('%d %B %Y') }}.<|im_end|>\n" + (
    _EACH + _IM + "{{ m.content }}<|im_end|>\n{% endfor %}" + _ASK
)
VICUNA = (
    _EACH + "{% if m.role == 'user' %}USER: {{ m.content }} {% elif m.role == 'assistant' %}"
    "ASSISTANT: {{ m.content }}{{ eos_token }}{% else %}{{ m.content }} {% endif %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
NO_END = (
    _EACH + "{{ m.role | upper }}: {% for piece in m.content if piece.type == 'image' %}<image>\n{% endfor %}"
    "{% for piece in m.content if piece.type == 'text' %}{{ piece.text }} {% endfor %}{% endfor %}"
    "{% if add_generation_prompt %}ASSISTANT:{% endif %}"
)
