"""The Python openai client against a running server.

  hasten serve smollm2 &
  pip install openai && python test/clients/check_openai.py [URL]
"""
import sys

import openai
from pydantic import BaseModel

client = openai.OpenAI(
    base_url=(sys.argv[1] if len(sys.argv) > 1 else "http://127.0.0.1:8000") + "/v1",
    api_key="none",
    max_retries=0,
)
model = client.models.list().data[0].id
messages = [{"role": "user", "content": "What is the weather in Paris?"}]
parameters = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
function = {"name": "weather", "description": "Weather of a city", "parameters": parameters}
tools = [{"type": "function", "function": function}]
num_failed = 0


class Person(BaseModel):
    name: str
    age: int


def check(run):
    global num_failed
    try:
        run()
        print("ok     ", run.__name__)
    except Exception as error:
        num_failed += 1
        print("FAILED ", run.__name__, type(error).__name__, str(error).split("\n")[0])


def chat_streamed():
    options = {"include_usage": True}
    stream = client.chat.completions.create(
        model=model, messages=messages, max_tokens=12, stream=True, stream_options=options
    )
    chunks = list(stream)
    assert "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
    assert chunks[-1].usage.completion_tokens > 0


def chat_tool():
    choice = {"type": "function", "function": {"name": "weather"}}
    answer = client.chat.completions.create(
        model=model, messages=messages, tools=tools, tool_choice=choice, max_tokens=120, temperature=0
    )
    assert answer.choices[0].message.tool_calls[0].function.name == "weather"


def chat_schema():
    answer = client.chat.completions.parse(
        model=model,
        messages=[{"role": "user", "content": "Bob is 7 years old. Who is he?"}],
        response_format=Person,
        max_tokens=120,
        temperature=0,
    )
    assert isinstance(answer.choices[0].message.parsed, Person)


def responses_whole():
    answer = client.responses.create(model=model, input="Say hi.", max_output_tokens=10)
    assert answer.output_text and answer.status == "incomplete"


def responses_streamed_to_its_end():
    # A stream that is cut by max_output_tokens has no final response in this client, whoever serves it.
    with client.responses.stream(model=model, input="Say hi.", temperature=0) as stream:
        kinds = [event.type for event in stream]
        assert stream.get_final_response().output_text
    assert kinds[0] == "response.created" and kinds[-1] == "response.completed"


def responses_streamed_and_cut():
    with client.responses.stream(model=model, input="Say hi.", max_output_tokens=5) as stream:
        events = list(stream)
    assert events[-1].type == "response.incomplete"
    assert events[-1].response.incomplete_details.reason == "max_output_tokens"


def embeddings():
    answer = client.embeddings.create(model=model, input=["a", "b"])
    assert len(answer.data) == 2 and len(answer.data[0].embedding) > 0


def completion():
    answer = client.completions.create(model=model, prompt="The capital of France is", max_tokens=5)
    assert answer.choices[0].text


for each in [
    chat_streamed,
    chat_tool,
    chat_schema,
    responses_whole,
    responses_streamed_to_its_end,
    responses_streamed_and_cut,
    embeddings,
    completion,
]:
    check(each)
sys.exit(1 if num_failed else 0)
