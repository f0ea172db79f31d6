"""A server with OpenAI's interface over sessions that are kept: what was read once is not read again.

app         the application: checks of host and key, error bodies, routes
run         the process: loopback or keys, signals, a graceful stop
house       what all routes share
engine      the thread that drives the batch, and the queue before it
answer      one request's texts: what is reused, what is read, what is written
marks       sessions that are kept, found by items of a conversation
store       the index of marks and objects, and files of sessions
once        one writer at a time; retries that do nothing twice
template    a conversation as one text
fields      the fields of requests: honoured, ignored, refused
figures     what is counted; dashboard: where it is shown
client      `st.connect`
"""
