"""SQS through aiobotocore: AWS, ElasticMQ and moto speak the same protocol.

Needs the extra `onceproof[sqs]`.
"""

from onceproof.brokers.sqs.broker import SqsBroker
from onceproof.brokers.sqs.subscriber import SqsSubscriber

__all__ = ["SqsBroker", "SqsSubscriber"]
