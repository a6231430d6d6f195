# Environment of Ray and of the jobs on a node. Each command on a node begins with ". ~/rdd/cluster/node_env.sh".
export PATH=~/venv/bin:$PATH

# Who has no token is refused by every port of Ray. The token is a file that `ray up` copies; no command line has it.
export RAY_AUTH_MODE=token
export RAY_AUTH_TOKEN_PATH=~/.ray/auth_token

export RAY_USAGE_STATS_ENABLED=0

# Drivers of jobs run on the head, where cluster/mlflow/serve.py listens; its password is in ~/.mlflow/credentials.
export MLFLOW_TRACKING_URI=http://127.0.0.1:5000

# The same ports on every node, so that a firewall can name them; 6379 is the head's, 10001 that of Ray's client.
export RDD_RAY_PORTS="--node-manager-port=6380 --object-manager-port=6381 --dashboard-agent-grpc-port=6382
    --dashboard-agent-listen-port=6383 --runtime-env-agent-port=6384 --metrics-export-port=6385
    --min-worker-port=10002 --max-worker-port=10999"

# A call to a host that has gone silent is given up after 85 s, not after Ray's 7 minutes; more often than once a minute Ray's servers
# refuse to be asked.
export RAY_grpc_client_keepalive_time_ms=65000 RAY_grpc_client_keepalive_timeout_ms=20000
