//! What disturbs everything else on the cluster, one after the other and by itself: a node dies, the operator is taken away.

mod install;
mod node;
