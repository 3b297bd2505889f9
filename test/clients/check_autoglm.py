"""The unmodified model module of Open-AutoGLM (https://github.com/zai-org/Open-AutoGLM), with text only, and its deployment check's request.

  hasten serve smollm2 &
  git clone https://github.com/zai-org/Open-AutoGLM && pip install openai
  PYTHONPATH=Open-AutoGLM python test/clients/check_autoglm.py [URL]
"""
import sys

from openai import OpenAI
from phone_agent.model import ModelClient, ModelConfig

base_url = (sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000") + "/v1"
client = OpenAI(base_url=base_url, api_key="EMPTY", timeout=30)
model = client.models.list().data[0].id

# What main.py asks before it begins.
probe = client.chat.completions.create(
    model=model, messages=[{"role": "user", "content": "Hi"}], max_tokens=5, temperature=0.0
)
assert probe.choices and probe.choices[0].message.content

system = {"role": "system", "content": "You control a phone. Answer with finish(message=\"...\")."}
screen = '** Screen Info **\n\n{"current_app": "System Home"}'
user = {"role": "user", "content": [{"type": "text", "text": screen}]}
config = ModelConfig(base_url=base_url, model_name=model, lang="en", max_tokens=40)
answer = ModelClient(config).request([system, user])
assert answer.raw_content and answer.time_to_first_token is not None and answer.total_time > 0
print("ok", repr(answer.action)[:80])
